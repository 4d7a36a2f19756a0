"""The lines that ``mutants.py`` changes, what it makes of them, and the tests that should notice."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Mutant:
    """One change: ``old``, there exactly once in ``file``, becomes ``new``; ``tests`` should fail."""

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


def _tests(*names: str) -> tuple[str, ...]:
    """Files of tests by folder and module: ``unit/graph/knn`` is ``tests/unit/graph/test_knn.py``."""
    return tuple("tests/{}/test_{}.py".format(*name.rsplit("/", 1)) for name in names)


MUTANTS = (
    # Ties and choices
    Mutant(
        "of equal similarities the higher id is nearer",
        "engine/graph/knn.py",
        "if value > similarities[place, 0] or candidate < ids[place, 0]:",
        "if value > similarities[place, 0] or candidate > ids[place, 0]:",
        _tests("unit/graph/knn"),
    ),
    Mutant(
        "a row is its own neighbour",
        "engine/graph/knn.py",
        "if candidate == own or (usable_N.size",
        "if (usable_N.size",
        _tests("unit/graph/knn"),
    ),
    Mutant(
        "a row is its own neighbour, by codes",
        "engine/graph/largest.py",
        "if np.int32(values[place]) >= floor and ids[place] != own:",
        "if np.int32(values[place]) >= floor:",
        _tests("unit/graph/codes", "unit/graph/probing"),
    ),
    Mutant(
        "a neighbour that two partitions list counts twice",
        "engine/graph/largest.py",
        "if rank < size and (rank == 0 or key != last):",
        "if rank < size:",
        _tests("unit/graph/probing", "unit/graph/codes", "unit/steps/passes"),
    ),
    Mutant(
        "of two roots the higher stays",
        "engine/clustering/union_find.py",
        "        if a < b:\n            parents[b] = a\n        elif b < a:\n            parents[a] = b",
        "        if a > b:\n            parents[b] = a\n        elif b > a:\n            parents[a] = b",
        _tests("unit/clustering/union_find"),
    ),
    Mutant(
        "of equal densities the higher id is the denser",
        "engine/clustering/density_peaks.py",
        "    return vertex < other",
        "    return vertex > other",
        _tests("unit/partitions/streamed", "properties/clustering"),
    ),
    Mutant(
        "of equal scores the last edge is kept",
        "engine/clustering/forest.py",
        "| np.uint64(edge)",
        "| np.uint64(len(bits_E) - 1 - edge)",
        _tests("unit/clustering/propagation", "properties/clustering"),
    ),
    Mutant(
        "of modules that save the same the highest",
        "engine/clustering/module_moves.py",
        "and module < target):",
        "and module > target):",
        _tests("unit/clustering/map_equation"),
    ),
    Mutant(
        "no head start for the map equation",
        "engine/partitions/map_equation.py",
        "head_start = 0.01",
        "head_start = 0.0",
        _tests("unit/partitions/select"),
    ),
    Mutant(
        "the map equation may be worse than components",
        "engine/clustering/map_equation.py",
        "best = int(np.argmin(bits))",
        "best = 0",
        _tests("unit/clustering/map_equation", "properties/clustering"),
    ),
    # Thresholds and scores
    Mutant(
        "an edge at the threshold is pruned",
        "engine/partitions/components.py",
        '            edges += len(scores)\n            kept = scores >= np.float32(point["min_score"])',
        '            edges += len(scores)\n            kept = scores > np.float32(point["min_score"])',
        _tests("unit/partitions/streamed"),
    ),
    Mutant(
        "an edge at a threshold that is tried is not tried with it",
        "engine/partitions/components.py",
        "kept = edges.scores >= np.float32(min_score)",
        "kept = edges.scores > np.float32(min_score)",
        _tests("unit/partitions/select"),
    ),
    Mutant(
        "node intimacy of open neighbourhoods",
        "engine/clustering/pruning.py",
        "common += 2  # i itself",
        "common += 0  # i itself",
        _tests("unit/clustering/pruning"),
    ),
    Mutant(
        "propagation leaves clusters of the last round uncut",
        "engine/clustering/propagation.py",
        "cap = num_vertices if level == len(thresholds) - 1 else max_size",
        "cap = max_size",
        _tests("unit/clustering/propagation"),
    ),
    Mutant(
        "a cluster as large as the cap is too large",
        "engine/clustering/propagation.py",
        "<= cap:",
        "< cap:",
        _tests("unit/clustering/propagation"),
    ),
    Mutant(
        "rows that were predicted -1 are one cluster",
        "engine/evaluation/metrics.py",
        "dense_N[alone_N] = num + np.arange(num_alone)",
        "dense_N[alone_N] = num",
        _tests("unit/evaluation/metrics"),
    ),
    Mutant(
        "rows of unknown identity are scored",
        "engine/evaluation/metrics.py",
        "        if not known_N.all():",
        "        if False:",
        _tests("unit/evaluation/metrics"),
    ),
    Mutant(
        "held-out rows choose nothing",
        "engine/methods/structural/trees.py",
        "gradients[held] = curvatures[held] = 0",
        "pass",
        _tests("unit/learning/trees"),
    ),
    # What a fingerprint covers
    Mutant(
        "a fingerprint without the version",
        "engine/runs/plan.py",
        "[*what, stage.version, dict",
        "[*what, dict",
        _tests("unit/runs/plan"),
    ),
    Mutant(
        "a fingerprint without the parameters",
        "engine/runs/plan.py",
        "stage.version, dict(stage.params), upstream",
        "stage.version, upstream",
        _tests("unit/runs/plan", "unit/runs/runner"),
    ),
    Mutant(
        "a fingerprint without the inputs",
        "engine/runs/plan.py",
        "dict(stage.params), upstream, source_digest",
        "dict(stage.params), source_digest",
        _tests("unit/runs/plan", "unit/runs/runner"),
    ),
    Mutant(
        "a fingerprint without the source",
        "engine/runs/plan.py",
        "upstream, source_digest, stage.num_rows]",
        "upstream, stage.num_rows]",
        _tests("unit/runs/plan", "unit/runs/runner"),
    ),
    # Commits
    Mutant(
        "the flush of a file is left out",
        "engine/storage/manifest.py",
        "                os.fsync(stream.fileno())\n",
        "",
        _tests("unit/storage/manifest"),
    ),
    Mutant(
        "the flush of an appended file is left out",
        "engine/storage/formats/export.py",
        "                os.fsync(self._file.fileno())\n",
        "",
        _tests("unit/storage/manifest"),
    ),
    Mutant(
        "a file is written under its final name",
        "engine/storage/manifest.py",
        "            with open_new(temporary) as stream:\n",
        "            with open_new(path) as stream, open_new(temporary):\n",
        _tests("unit/storage/manifest"),
    ),
    Mutant(
        "an output's checksum is not compared",
        "engine/storage/manifest.py",
        "return None if file_checksum(path) == output.checksum else",
        "return None if True else",
        _tests("unit/storage/manifest", "unit/runs/runner"),
    ),
    Mutant(
        "a file's own checksum is not compared",
        "engine/storage/owned.py",
        "intact = not kind.sealed or checksum == tree_checksum(tree)",
        "intact = True",
        _tests("unit/storage/manifest", "unit/runs/runner"),
    ),
    Mutant(
        "records of another fingerprint count",
        "engine/storage/manifest.py",
        "if record is not None and record.digest == digest]",
        "if record is not None]",
        _tests("unit/storage/manifest", "unit/runs/runner"),
    ),
    Mutant(
        "a record may be of other rows than its name says",
        "engine/storage/manifest.py",
        "return record if record.start < record.stop and record_path(folder, record) == path else None",
        "return record",
        _tests("unit/storage/manifest", "unit/runs/runner"),
    ),
    Mutant(
        "rows that two records cover count twice",
        "engine/storage/context.py",
        "if (kept and record.start < kept[-1].stop) or (num_rows",
        "if (num_rows",
        _tests("unit/storage/context", "unit/runs/runner"),
    ),
    Mutant(
        "a record is published before its outputs",
        "engine/storage/context.py",
        "        place.publish(*(context.folder / output.path for output in context.outputs))\n",
        "",
        _tests("unit/storage/places"),
    ),
    Mutant(
        "a full disk is any error",
        "engine/storage/manifest.py",
        "if error.errno in (errno.ENOSPC, errno.EDQUOT):",
        "if error.errno in (errno.EDQUOT,):",
        _tests("unit/storage/manifest"),
    ),
    Mutant(
        "the last chunk is not padded",
        "engine/storage/arrays.py",
        "pieces=(data, bytes(padding))",
        "pieces=(data,)",
        _tests("unit/storage/arrays"),
    ),
    Mutant(
        "chunks of another size are mapped",
        "engine/storage/arrays.py",
        "if not paths[-1].is_file() or paths[-1].stat().st_size != chunk_bytes:",
        "if not paths[-1].is_file():",
        _tests("unit/storage/arrays"),
    ),
    Mutant(
        "a task is tried once more",
        "engine/runs/attempts.py",
        "\nATTEMPTS = 4",
        "\nATTEMPTS = 5",
        _tests("unit/runs/runner"),
    ),
    Mutant(
        "a lost worker is a failure as any other",
        "engine/runs/attempts.py",
        ">= (LOST_ATTEMPTS if o.lost else ATTEMPTS)]",
        ">= ATTEMPTS]",
        _tests("unit/runs/effort"),
    ),
    # Places, and text from elsewhere
    Mutant(
        "a name may lead out of its folder",
        "engine/storage/paths.py",
        'or ".." in parts or',
        "or",
        _tests("unit/storage/paths"),
    ),
    Mutant(
        "an absolute name may lead out of its folder",
        "engine/storage/paths.py",
        'not parts or name != "/".join(parts) or',
        "not parts or",
        _tests("unit/storage/paths"),
    ),
    Mutant(
        "what a command reads may be overwritten",
        "engine/storage/paths.py",
        "        if _is_or_lies_in(path, source):",
        "        if False:",
        _tests("unit/storage/paths"),
    ),
    Mutant(
        "a FIFO is opened for reading",
        "engine/storage/paths.py",
        'if not stat.S_ISREG(mode):\n        raise DataError(f"{path}: is {_kind(mode)}, expected a regular file")',
        "pass",
        _tests("unit/storage/paths"),
    ),
    Mutant(
        "items are markup",
        "engine/report/gallery.py",
        'f"<span>{escape(_cut(item.text))}</span></li>"',
        'f"<span>{_cut(item.text)}</span></li>"',
        _tests("unit/report/report"),
    ),
    Mutant(
        "why a method has no result is markup",
        "engine/comparison/page.py",
        "{escape(row.missing)}",
        "{row.missing}",
        _tests("unit/comparison/page"),
    ),
    Mutant(
        "passwords of URLs are shown",
        "engine/process/masking.py",
        "_WORD.sub(_without_user, value)",
        "value",
        _tests("unit/process/masking"),
    ),
    Mutant(
        "an alias of YAML counts once",
        "engine/storage/yaml_files.py",
        "if values > _MOST_VALUES:",
        "if False:",
        _tests("unit/storage/formats/readers"),
    ),
    Mutant(
        "YAML of any depth",
        "engine/storage/yaml_files.py",
        "if self.depth > _MOST_DEPTH:",
        "if False:",
        _tests("unit/storage/formats/readers"),
    ),
    Mutant(
        "a token that others read is taken",
        "engine/executors/ray/authentication.py",
        "if permissions & 0o077:",
        "if permissions & 0o007:",
        _tests("unit/executors/ray/authentication"),
    ),
    # Two at once
    Mutant(
        "a lease's living holder is taken for dead",
        "engine/storage/lease.py",
        "            return False\n        if _started(self.pid)",
        "            return True\n        if _started(self.pid)",
        _tests("unit/storage/places"),
    ),
    Mutant(
        "a lease's dead holder is not noticed",
        "engine/storage/lease.py",
        "        if _started(self.pid) != self.started:\n            return True",
        "        if _started(self.pid) != self.started:\n            return False",
        _tests("unit/storage/places"),
    ),
    Mutant(
        "a lease lapses at once",
        "engine/storage/lease.py",
        "until = time.monotonic() + LEASE_S\n",
        "until = time.monotonic()\n",
        _tests("unit/storage/places"),
    ),
    Mutant(
        "a lease that another took is renewed",
        "engine/storage/lease.py",
        "if held is not None and held.token != self._token:",
        "if False:",
        _tests("unit/storage/places"),
    ),
    Mutant(
        "another's lease is given back",
        "engine/storage/lease.py",
        "            if held is not None and held.token == self._token:\n",
        "            if held is not None:\n",
        _tests("unit/storage/places"),
    ),
    Mutant(
        "the folder is not checked again inside the lock",
        "engine/runs/runner.py",
        "        known = check_folder(place, plan, request)\n",
        "        known = True\n",
        _tests("unit/runs/runner"),
    ),
    # What numbers from elsewhere may do
    Mutant(
        "the limit of a container is ignored",
        "engine/process/memory.py",
        ", *_left_in_groups(root)])",
        "])",
        _tests("unit/process/memory"),
    ),
    Mutant(
        "trees read before the first input",
        "engine/methods/structural/trees.py",
        "self.inputs.min() < 0 or ",
        "",
        _tests("unit/learning/trees", "unit/methods/models"),
    ),
    Mutant(
        "trees read beyond the last input",
        "engine/methods/structural/trees.py",
        "        if self.num_inputs > count:",
        "        if False:",
        _tests("unit/learning/trees", "unit/methods/models"),
    ),
    # How a process ends
    Mutant(
        "a stopped process waits for its computations",
        "engine/process/stopping.py",
        "given_back.wait(GRACE_S)",
        "given_back.wait()",
        _tests("unit/process/stopping"),
    ),
    Mutant(
        "a second signal interrupts what the first one began",
        "engine/process/stopping.py",
        "        _ignore(handled)\n        announce()\n",
        "        announce()\n        interrupted.clear()\n",
        _tests("unit/process/stopping"),
    ),
    Mutant(
        "temporary files of a stopped process stay",
        "engine/process/stopping.py",
        "            with suppress(OSError):\n                path.unlink()\n",
        "            pass\n",
        _tests("unit/process/stopping"),
    ),
    Mutant(
        "a comparison's process outlives it",
        "engine/commands/apart.py",
        "        ctypes.CDLL(None).prctl(END_WITH_PARENT, signal.SIGKILL)\n",
        "        pass\n",
        _tests("unit/commands/apart"),
    ),
    Mutant(
        "results of tiles in the order in which they end",
        "engine/tiles.py",
        "                if len(running) >= 2 * threads:\n                    yield running.popleft().result()",
        "                if len(running) >= 2 * threads:\n                    yield running.pop().result()",
        _tests("unit/tiles"),
    ),
    # Randomness
    Mutant(
        "what a step draws does not follow from the seed",
        "engine/methods/star_fc/minibatches.py",
        "rng = stream(self.seed, MINIBATCH, step)",
        "rng = np.random.default_rng()",
        _tests("unit/learning/training"),
    ),
    Mutant(
        "every pass draws the same centroids",
        "engine/steps/passes.py",
        "TRAIN_ITERATIONS, self.number, lambda",
        "TRAIN_ITERATIONS, 0, lambda",
        _tests("unit/steps/passes"),
    ),
)
