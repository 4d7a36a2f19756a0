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


def _unit(*names: str) -> tuple[str, ...]:
    """Files of tests: of ``tests/unit``, or of another folder that the name begins with."""
    paths = [name if "/" in name else f"unit/{name}" for name in names]
    return tuple(f"tests/{path.replace('/', '/test_')}.py" for path in paths)


MUTANTS = (
    # Ties and choices
    Mutant(
        "of equal similarities the higher id is nearer",
        "engine/graph/knn.py",
        "if value > similarities[place, 0] or candidate < ids[place, 0]:",
        "if value > similarities[place, 0] or candidate > ids[place, 0]:",
        _unit("knn"),
    ),
    Mutant(
        "a row is its own neighbour",
        "engine/graph/knn.py",
        "if candidate == own or (usable_N.size",
        "if (usable_N.size",
        _unit("knn"),
    ),
    Mutant(
        "a row is its own neighbour, by codes",
        "engine/graph/largest.py",
        "if np.int32(values[place]) >= floor and ids[place] != own:",
        "if np.int32(values[place]) >= floor:",
        _unit("codes", "partitions"),
    ),
    Mutant(
        "a neighbour that two partitions list counts twice",
        "engine/graph/largest.py",
        "if rank < size and (rank == 0 or key != last):",
        "if rank < size:",
        _unit("partitions", "codes", "passes"),
    ),
    Mutant(
        "of two roots the higher stays",
        "engine/clustering/union_find.py",
        "        if a < b:\n            parents[b] = a\n        elif b < a:\n            parents[a] = b",
        "        if a > b:\n            parents[b] = a\n        elif b > a:\n            parents[a] = b",
        _unit("union_find"),
    ),
    Mutant(
        "of equal densities the higher id is the denser",
        "engine/clustering/density_peaks.py",
        "    return vertex < other",
        "    return vertex > other",
        _unit("partition", "properties/clustering"),
    ),
    Mutant(
        "of equal scores the last edge is kept",
        "engine/clustering/forest.py",
        "| np.uint64(edge)",
        "| np.uint64(len(bits_E) - 1 - edge)",
        _unit("propagation", "properties/clustering"),
    ),
    Mutant(
        "of modules that save the same the highest",
        "engine/clustering/module_moves.py",
        "and module < target):",
        "and module > target):",
        _unit("map_equation"),
    ),
    Mutant(
        "no head start for the map equation",
        "engine/partitions/map_equation.py",
        "head_start = 0.01",
        "head_start = 0.0",
        _unit("selection"),
    ),
    Mutant(
        "the map equation may be worse than components",
        "engine/clustering/map_equation.py",
        "return choices[int(np.argmin(bits))]",
        "return choices[0]",
        _unit("map_equation", "properties/clustering"),
    ),
    # Thresholds and scores
    Mutant(
        "an edge at the threshold is pruned",
        "engine/partitions/components.py",
        '            edges += len(scores)\n            kept = scores >= np.float32(point["min_score"])',
        '            edges += len(scores)\n            kept = scores > np.float32(point["min_score"])',
        _unit("partition"),
    ),
    Mutant(
        "an edge at a threshold that is tried is not tried with it",
        "engine/partitions/components.py",
        "kept = edges.scores >= np.float32(min_score)",
        "kept = edges.scores > np.float32(min_score)",
        _unit("selection"),
    ),
    Mutant(
        "node intimacy of open neighbourhoods",
        "engine/clustering/pruning.py",
        "common += 2  # i itself",
        "common += 0  # i itself",
        _unit("pruning"),
    ),
    Mutant(
        "propagation leaves clusters of the last round uncut",
        "engine/clustering/propagation.py",
        "cap = num_vertices if level == len(thresholds) - 1 else max_size",
        "cap = max_size",
        _unit("propagation"),
    ),
    Mutant(
        "a cluster as large as the cap is too large",
        "engine/clustering/propagation.py",
        "<= cap:",
        "< cap:",
        _unit("propagation"),
    ),
    Mutant(
        "rows that were predicted -1 are one cluster",
        "engine/evaluation/metrics.py",
        "dense_N[alone_N] = num + np.arange(num_alone)",
        "dense_N[alone_N] = num",
        _unit("metrics"),
    ),
    Mutant(
        "rows of unknown identity are scored",
        "engine/evaluation/metrics.py",
        "        if not known_N.all():",
        "        if False:",
        _unit("metrics"),
    ),
    Mutant(
        "held-out rows choose nothing",
        "engine/learning/trees.py",
        "gradients[held] = curvatures[held] = 0",
        "pass",
        _unit("trees"),
    ),
    # What a fingerprint covers
    Mutant(
        "a fingerprint without the version",
        "engine/runs/plan.py",
        "[*what, stage.version, dict",
        "[*what, dict",
        _unit("plan"),
    ),
    Mutant(
        "a fingerprint without the parameters",
        "engine/runs/plan.py",
        "stage.version, dict(stage.params), upstream",
        "stage.version, upstream",
        _unit("plan", "runner"),
    ),
    Mutant(
        "a fingerprint without the inputs",
        "engine/runs/plan.py",
        "dict(stage.params), upstream, source_digest",
        "dict(stage.params), source_digest",
        _unit("plan", "runner"),
    ),
    Mutant(
        "a fingerprint without the source",
        "engine/runs/plan.py",
        "upstream, source_digest, stage.num_rows]",
        "upstream, stage.num_rows]",
        _unit("plan", "runner"),
    ),
    # Commits
    Mutant(
        "the flush of a file is left out",
        "engine/storage/manifest.py",
        "                os.fsync(stream.fileno())\n",
        "",
        _unit("manifest"),
    ),
    Mutant(
        "the flush of an appended file is left out",
        "engine/storage/formats/export.py",
        "                os.fsync(self._file.fileno())\n",
        "",
        _unit("manifest"),
    ),
    Mutant(
        "a file is written under its final name",
        "engine/storage/manifest.py",
        "            with open_new(temporary) as stream:\n",
        "            with open_new(path) as stream, open_new(temporary):\n",
        _unit("manifest"),
    ),
    Mutant(
        "an output's checksum is not compared",
        "engine/storage/manifest.py",
        "return None if file_checksum(path) == output.checksum else",
        "return None if True else",
        _unit("manifest", "runner"),
    ),
    Mutant(
        "a file's own checksum is not compared",
        "engine/storage/owned.py",
        "intact = not kind.sealed or checksum == tree_checksum(tree)",
        "intact = True",
        _unit("manifest", "runner"),
    ),
    Mutant(
        "records of another fingerprint count",
        "engine/storage/manifest.py",
        "if record is not None and record.digest == digest]",
        "if record is not None]",
        _unit("manifest", "runner"),
    ),
    Mutant(
        "a record may be of other rows than its name says",
        "engine/storage/manifest.py",
        "return record if record.start < record.stop and record_path(folder, record) == path else None",
        "return record",
        _unit("manifest", "runner"),
    ),
    Mutant(
        "rows that two records cover count twice",
        "engine/storage/context.py",
        "if (kept and record.start < kept[-1].stop) or (num_rows",
        "if (num_rows",
        _unit("context", "runner"),
    ),
    Mutant(
        "a record is published before its outputs",
        "engine/storage/context.py",
        "        place.publish(*(context.folder / output.path for output in context.outputs))\n",
        "",
        _unit("places"),
    ),
    Mutant(
        "a full disk is any error",
        "engine/storage/manifest.py",
        "if error.errno in (errno.ENOSPC, errno.EDQUOT):",
        "if error.errno in (errno.EDQUOT,):",
        _unit("manifest"),
    ),
    Mutant(
        "the last chunk is not padded",
        "engine/storage/arrays.py",
        "pieces=(data, bytes(padding))",
        "pieces=(data,)",
        _unit("arrays"),
    ),
    Mutant(
        "chunks of another size are mapped",
        "engine/storage/arrays.py",
        "if not paths[-1].is_file() or paths[-1].stat().st_size != chunk_bytes:",
        "if not paths[-1].is_file():",
        _unit("arrays"),
    ),
    Mutant("a task is tried once more", "engine/runs/attempts.py", "\nATTEMPTS = 4", "\nATTEMPTS = 5", _unit("runner")),
    Mutant(
        "a lost worker is a failure as any other",
        "engine/runs/attempts.py",
        ">= (LOST_ATTEMPTS if o.lost else ATTEMPTS)]",
        ">= ATTEMPTS]",
        _unit("effort"),
    ),
    # Places, and text from elsewhere
    Mutant("a name may lead out of its folder", "engine/storage/paths.py", 'or ".." in parts or', "or", _unit("paths")),
    Mutant(
        "an absolute name may lead out of its folder",
        "engine/storage/paths.py",
        'not parts or name != "/".join(parts) or',
        "not parts or",
        _unit("paths"),
    ),
    Mutant(
        "what a command reads may be overwritten",
        "engine/storage/paths.py",
        "        if _is_or_lies_in(path, source):",
        "        if False:",
        _unit("paths"),
    ),
    Mutant(
        "a FIFO is opened for reading",
        "engine/storage/paths.py",
        'if not stat.S_ISREG(mode):\n        raise DataError(f"{path}: is {_kind(mode)}, expected a regular file")',
        "pass",
        _unit("paths"),
    ),
    Mutant(
        "items are markup",
        "engine/report/page.py",
        'f"<span>{escape(_cut(item.text))}</span></li>"',
        'f"<span>{_cut(item.text)}</span></li>"',
        _unit("report"),
    ),
    Mutant(
        "why a method has no result is markup",
        "engine/comparison/page.py",
        "{escape(row.missing)}",
        "{row.missing}",
        _unit("comparison_page"),
    ),
    Mutant(
        "passwords of URLs are shown",
        "engine/process/masking.py",
        "_WORD.sub(_without_user, value)",
        "value",
        _unit("masking"),
    ),
    Mutant(
        "an alias of YAML counts once",
        "engine/storage/yaml_files.py",
        "if values > _MOST_VALUES:",
        "if False:",
        _unit("readers"),
    ),
    Mutant(
        "YAML of any depth",
        "engine/storage/yaml_files.py",
        "if self.depth > _MOST_DEPTH:",
        "if False:",
        _unit("readers"),
    ),
    Mutant(
        "a token that others read is taken",
        "engine/executors/ray/authentication.py",
        "if permissions & 0o077:",
        "if permissions & 0o007:",
        _unit("ray_authentication"),
    ),
    # Two at once
    Mutant(
        "a lease's living holder is taken for dead",
        "engine/storage/lease.py",
        "            return False\n        if _started(self.pid)",
        "            return True\n        if _started(self.pid)",
        _unit("places"),
    ),
    Mutant(
        "a lease's dead holder is not noticed",
        "engine/storage/lease.py",
        "        if _started(self.pid) != self.started:\n            return True",
        "        if _started(self.pid) != self.started:\n            return False",
        _unit("places"),
    ),
    Mutant(
        "a lease lapses at once",
        "engine/storage/lease.py",
        "until = time.monotonic() + LEASE_S\n",
        "until = time.monotonic()\n",
        _unit("places"),
    ),
    Mutant(
        "a lease that another took is renewed",
        "engine/storage/lease.py",
        "if held is not None and held.token != self._token:",
        "if False:",
        _unit("places"),
    ),
    Mutant(
        "another's lease is given back",
        "engine/storage/lease.py",
        "            if held is not None and held.token == self._token:\n",
        "            if held is not None:\n",
        _unit("places"),
    ),
    Mutant(
        "the folder is not checked again inside the lock",
        "engine/runs/runner.py",
        "        known = check_folder(place, plan, request)\n",
        "        known = True\n",
        _unit("runner"),
    ),
    # What numbers from elsewhere may do
    Mutant(
        "the limit of a container is ignored",
        "engine/process/memory.py",
        ", *_left_in_groups(root)])",
        "])",
        _unit("memory"),
    ),
    Mutant(
        "trees read before the first input",
        "engine/learning/trees.py",
        "self.inputs.min() < 0 or ",
        "",
        _unit("trees", "models"),
    ),
    Mutant(
        "trees read beyond the last input",
        "engine/learning/trees.py",
        "        if self.num_inputs > count:",
        "        if False:",
        _unit("trees", "models"),
    ),
    # How a process ends
    Mutant(
        "a stopped process waits for its computations",
        "engine/process/stopping.py",
        "given_back.wait(GRACE_S)",
        "given_back.wait()",
        _unit("stopping"),
    ),
    Mutant(
        "a second signal interrupts what the first one began",
        "engine/process/stopping.py",
        "        _ignore(handled)\n        announce()\n",
        "        announce()\n        interrupted.clear()\n",
        _unit("stopping"),
    ),
    Mutant(
        "temporary files of a stopped process stay",
        "engine/process/stopping.py",
        "            with suppress(OSError):\n                path.unlink()\n",
        "            pass\n",
        _unit("stopping"),
    ),
    Mutant(
        "a comparison's process outlives it",
        "engine/commands/apart.py",
        "        ctypes.CDLL(None).prctl(END_WITH_PARENT, signal.SIGKILL)\n",
        "        pass\n",
        _unit("apart"),
    ),
    Mutant(
        "results of tiles in the order in which they end",
        "engine/tiles.py",
        "                if len(running) >= 2 * threads:\n                    yield running.popleft().result()",
        "                if len(running) >= 2 * threads:\n                    yield running.pop().result()",
        _unit("tiles"),
    ),
    # Randomness
    Mutant(
        "what a step draws does not follow from the seed",
        "engine/learning/minibatches.py",
        "rng = stream(self.seed, MINIBATCH, step)",
        "rng = np.random.default_rng()",
        _unit("training"),
    ),
    Mutant(
        "every pass draws the same centroids",
        "engine/steps/passes.py",
        "TRAIN_ITERATIONS, self.number, lambda",
        "TRAIN_ITERATIONS, 0, lambda",
        _unit("passes"),
    ),
)
