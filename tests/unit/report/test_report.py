"""The report: complete, self-contained, safe with hostile text, and alive in a real browser."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import shutil
import struct
import subprocess
import zlib
from dataclasses import asdict, replace
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image
from pydantic import TypeAdapter

from engine.commands.cluster_map import flat
from engine.errors import DataError
from engine.evaluation.galleries import SizeBin
from engine.evaluation.sweep import SweepRow
from engine.report.charts import decimal, short
from engine.report.cluster_list import pack_clusters
from engine.report.data import (
    Gallery,
    GalleryCluster,
    GalleryItem,
    MapPoint,
    MetricsRow,
    RecallEstimate,
    Reliability,
    StageRow,
    ValueHistogram,
)
from engine.report.gallery import SHOWN_CHARACTERS
from engine.report.images import MAX_BYTES, Pictures, digit_png, is_picture, is_tiny
from engine.report.page import ReportData, headline, render_report
from engine.report.thumbnails import SIDE_PIXELS, shrink

HOSTILE = """<script>alert(1)</script>"'><img src=x onerror=alert(2)>&lt;"""
VOID = {"meta", "link", "img", "br", "input", "hr"}
BARE = ReportData(
    title="faces",
    method="cosine",
    source="features.npy",
    num_rows=38_085,
    num_dimensions=256,
    num_clusters=3_912,
    num_singletons=214,
    largest=530,
)
FULL = replace(
    BARE,
    model="model.safetensors",
    operating_point="similarity ≥ 0.71",
    notes=["No model and no labels were given."],
    warnings=["Recall is low."],
    size_bins=[SizeBin(1, 1, 214, 214), SizeBin(2, 2, 90, 180), SizeBin(3, 4, 0, 0), SizeBin(5, 8, 1, 7)],
    metrics=[
        MetricsRow("this run", {"pairwise_f": 0.91234, "bcubed_f": 0.8, "nmi": 0.95, "num_clusters": 3912}, True),
        MetricsRow("plain thresholding", {"pairwise_f": 0.5}, remark="components at 0.71"),
    ],
    sweep=[SweepRow(0.8, 900, 400, 12, 0.99, 0.4, 0.57), SweepRow(0.7, 500, 100, 80, 0.9, 0.8, 0.85)],
    curve=[SweepRow(-2.0, 450, 90, 85, 0.8, 0.9, 0.85), SweepRow(2.0, 700, 300, 20, 0.95, 0.7, 0.81)],
    chosen_threshold=0.71,
    similarities=ValueHistogram([0.0, 0.5, 1.0], [10, 90]),
    scores=ValueHistogram([0.0, 0.5, 1.0], [0, 88], [10, 2], threshold=0.71),
    recall=RecallEstimate(80, 0.9713, 1_000, 0.5, 0.9994),
    confidence=ValueHistogram([0.0, 0.5, 1.0], [85, 38_000]),
    reliability=Reliability([0.1, 0.6, 0.9], [0.08, 0.625, 0.97], [40, 30, 30]),
    galleries=[
        Gallery(
            "Likely merges",
            "One identity in two clusters.",
            [
                GalleryCluster(
                    21,
                    12,
                    [1],
                    [GalleryItem("mary shelley")],
                    0.9,
                    confidence=0.77,
                    affinity=0.431,
                    beside=GalleryCluster(22, 2, [4], [GalleryItem("m. shelley")]),
                )
            ],
        ),
        Gallery(
            "Largest",
            "Most rows.",
            [
                GalleryCluster(7, 530, [3, 5], [GalleryItem("ada lovelace"), GalleryItem("ada byron")], 0.8, 0.6, [5]),
                GalleryCluster(8, 1, [9], [GalleryItem("a digit", digit_png(np.eye(8)))]),
            ],
            pixelated=True,
        ),
    ],
    stages=[StageRow("knn", 4, 83.2, 900 << 20, 41_000), StageRow("report", 1, 0.01)],
    settings={"knn.k": "80"},
    versions={"numpy": "2.2"},
    hardware={"cores": "2"},
)


class Page(HTMLParser):
    """Collects tags, text and attributes; a tag closed out of order is an error."""

    def __init__(self, html):
        super().__init__()
        self.open, self.tags, self.attributes, self.text = [], [], [], []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, *pair) for pair in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, *pair) for pair in attrs]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not self.open or self.open[-1] not in ("script", "style"):
            self.text.append(data)

    @property
    def words(self):
        return " ".join(self.text)


def test_the_headline_is_plain():
    assert headline(38_085, 3_912, 214, 530) == (
        "38,085 rows: 3,698 clusters of two and more, the largest of 530; 214 rows are alone"
    )
    assert headline(3, 2, 1, 2) == "3 rows: 1 cluster of two and more, the largest of 2; 1 row is alone"
    assert headline(4, 2, 0, 2) == "4 rows: 2 clusters of two and more, the largest of 2; no row is alone"
    assert headline(1, 1, 1, 1) == "1 row: none belongs to another"


def test_the_answer_says_what_to_expect_to_open_and_to_type():
    scores = ValueHistogram([0.0, 0.05, 0.4, 0.6, 1.0], [0, 0, 10, 90], [10**6, 8, 0, 0], threshold=0.5)
    steps = [replace(FULL.sweep[0], threshold=bias, num_clusters=100 - 10 * int(bias)) for bias in (-1.0, 0.0, 1.0)]
    words = Page(
        render_report(replace(FULL, scores=scores, expected_errors=(23.0, 1.8), probabilities=True, curve=steps))
    ).words
    for said in (
        "about 23 of the 100 joined pairs",
        "about 2 of the pairs left apart",
        "--precision-bias 1",
        "--precision-bias -1",
        "(90 instead of 3,912 clusters and single rows)",
    ):
        assert said in words, said
    assert "wrong merges, and" not in Page(render_report(replace(FULL, scores=scores))).words


def test_a_million_clusters_fit_into_a_page():
    drawn = np.random.default_rng(0)
    sizes = drawn.zipf(2.0, 300_000).clip(1, 10**6)
    scores = drawn.beta(8, 2, (2, len(sizes)))
    scores[1, sizes == 2] = np.nan
    packed = pack_clusters(np.arange(len(sizes)), sizes, *scores)
    assert packed.count == (sizes > 1).sum()
    assert len(packed.packed) / packed.count < 4  # bytes; a million then take under 4 MB
    held = zlib.decompress(base64.b64decode(packed.packed))
    count = packed.count
    np.testing.assert_array_equal(np.cumsum(np.frombuffer(held, "<u4", count)), np.flatnonzero(sizes > 1))
    np.testing.assert_array_equal(np.frombuffer(held, "<u4", count, 4 * count), sizes[sizes > 1])
    weakest = np.frombuffer(held, np.uint8, count, 9 * count)
    np.testing.assert_array_equal(weakest == 255, np.isnan(scores[1, sizes > 1]))
    known = weakest < 255
    np.testing.assert_allclose(weakest[known] / 254, scores[1, sizes > 1][known], atol=0.002)


def test_clusters_without_items_say_how_to_give_some():
    bare = GalleryCluster(label=5, size=9, rows=[11, 12], items=[GalleryItem(), GalleryItem()], marked_rows=[12])
    words = Page(render_report(replace(FULL, galleries=[Gallery("Largest", "", [bare])]))).words
    assert "items.txt" in words
    assert re.search(r"rows 11,\s+12", words)
    assert "items.txt" not in Page(render_report(FULL)).words


def test_a_full_report_shows_every_part():
    page = Page(render_report(FULL))
    for expected in (
        headline(38_085, 3_912, 214, 530),
        "No model and no labels were given.",
        "91.23",
        "components at 0.71",
        "chosen 0.71",
        "scoring only",
        "97.13 %",
        "1 min 23 s",
        "41k rows/s",
        "900 MiB",
        "ada lovelace",
        "and 528 more",
        "weakest link",
        "m. shelley",
        "0.431",
        "0.770",
        "62.5 %",
        "knn.k",
    ):
        assert expected in page.words, expected
    assert ("section", "id", "quality") in page.attributes
    assert ("li", "class", "marked") in page.attributes
    assert page.tags.count("figure") == 9


def test_parts_without_data_are_left_out():
    page = Page(render_report(BARE))
    assert not {"section", "figure", "table"} & set(page.tags)
    counted = [SweepRow(0.8, 900, 400, 12), SweepRow(0.7, 500, 100, 80)]
    unlabelled = replace(FULL, metrics=[], sweep=counted, curve=[])
    words = Page(render_report(unlabelled)).words
    assert "plain thresholding would give" in words
    assert "precision" not in words
    assert "scoring only" not in words


def test_degenerate_numbers_still_draw():
    odd = replace(
        FULL,
        num_rows=0,
        sweep=[SweepRow(0.5, 0, 0, 0)],
        similarities=ValueHistogram([0.0, 1.0], [0]),
        scores=ValueHistogram([-1.0, 1.0], [0], [0]),
        size_bins=[SizeBin(1, 1, 10**7, 10**7)],
        stages=[StageRow("knn", 1, 0.0)],
    )
    html = render_report(odd)
    Page(html)
    assert "nan" not in html.lower().replace("nanum", "")


def test_the_page_asks_the_network_for_nothing():
    html = render_report(FULL)
    page = Page(html)
    references = [value for _, name, value in page.attributes if name in ("src", "href", "action", "data")]
    assert all(value.startswith(("#", "data:")) for value in references)
    assert not re.search(r"url\(|@import|https?:", html)
    policy = next(value for _, name, value in page.attributes if name == "content" and "default-src" in value)
    assert "default-src 'none'" in policy


def test_hostile_text_stays_text():
    cluster = GalleryCluster(
        1, 3, [0, 1, 2], [GalleryItem(HOSTILE), GalleryItem(HOSTILE, digit_png(np.eye(2))), GalleryItem("x", HOSTILE)]
    )
    hostile = replace(
        FULL,
        title=HOSTILE,
        method=HOSTILE,
        source=HOSTILE,
        model=HOSTILE,
        operating_point=HOSTILE,
        notes=[HOSTILE],
        warnings=[HOSTILE],
        metrics=[MetricsRow(HOSTILE, {"nmi": 1.0}, remark=HOSTILE)],
        galleries=[Gallery(HOSTILE, HOSTILE, [cluster])],
        stages=[StageRow(HOSTILE, 1, 1.0, unit=HOSTILE, rate=1.0)],
        settings={HOSTILE: HOSTILE},
        versions={HOSTILE: HOSTILE},
        hardware={HOSTILE: HOSTILE},
    )
    page, plain = Page(render_report(hostile)), Page(render_report(FULL))
    assert page.tags.count("script") == plain.tags.count("script") == 1
    assert page.tags.count("img") == 1
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]
    assert page.words.count(HOSTILE) >= 15


def test_only_inline_raster_pictures_are_shown():
    for uri in ("https://example.org/a.png", "data:image/svg+xml;base64,PHN2Zz4=", "data:text/html;base64,PGI+"):
        gallery = Gallery("g", "e", [GalleryCluster(1, 1, [0], [GalleryItem("the caption", uri)])])
        page = Page(render_report(replace(BARE, galleries=[gallery])))
        assert "img" not in page.tags
        assert "the caption" in page.words


def test_report_data_survives_json():
    assert TypeAdapter(ReportData).validate_json(json.dumps(asdict(FULL))) == FULL


def test_the_same_data_give_the_same_bytes():
    assert render_report(FULL) == render_report(replace(FULL))


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (999, "999"), (1000, "1k"), (1250, "1.2k"), (38_085, "38k"), (999_900, "1M"), (2e9, "2G")],
)
def test_short_counts(value, text):
    assert short(value) == text


@pytest.mark.parametrize(("value", "text"), [(0.70, "0.7"), (-0.00001, "0"), (-0.25, "−0.25"), (3.0, "3")])
def test_decimals_have_no_trailing_zeros(value, text):
    assert decimal(value) == text


def read_png(uri):
    content = base64.b64decode(uri.removeprefix("data:image/png;base64,"))
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    chunks, at = {}, 8
    while at < len(content):
        (length,) = struct.unpack(">I", content[at : at + 4])
        name, body = content[at + 4 : at + 8], content[at + 8 : at + 8 + length]
        assert struct.unpack(">I", content[at + 8 + length : at + 12 + length])[0] == zlib.crc32(name + body)
        chunks[name], at = body, at + 12 + length
    width, height = struct.unpack(">II", chunks[b"IHDR"][:8])
    lines = np.frombuffer(zlib.decompress(chunks[b"IDAT"]), np.uint8).reshape(height, width + 1)
    assert (lines[:, 0] == 0).all()
    return lines[:, 1:]


def test_a_digit_becomes_a_png_of_its_pixels():
    pixels = np.array([[0, 8, 16], [16, 4, 0]])
    assert read_png(digit_png(pixels)).tolist() == [[0, 128, 255], [255, 64, 0]]
    assert read_png(digit_png(pixels.astype(np.float32), white=32)).max() == 128
    assert read_png(digit_png(np.zeros((2, 2)))).max() == 0
    with pytest.raises(DataError, match=r"\(H, W\)"):
        digit_png(np.zeros(4))


@pytest.fixture
def album(tmp_path):
    """Folders ``source`` and ``shared`` of pictures, and ``private`` that no report may show."""
    for name in ("source", "shared", "private"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.png").write_bytes(PICTURE)
    return tmp_path


PICTURE = base64.b64decode(digit_png(np.eye(4)).split(",")[1])


def test_pictures_below_the_named_folders_are_embedded(album):
    (album / "source/below").mkdir()
    (album / "source/below/b [x].JPG").write_bytes(b"\xff\xd8\xff and so on")
    (album / "shared/c.gif").write_bytes(b"GIF89a and so on")
    (album / "source/link.png").symlink_to(album / "shared/a.png")
    (album / "seen").symlink_to(album / "shared")
    pictures = Pictures([album / "source", album / "seen"])
    assert pictures.find("a.png") == digit_png(np.eye(4))
    for name in (
        "below/b [x].JPG", "below/../a.png", "../shared/a.png", "c.gif", "link.png", str(album / "shared/a.png"),
        str(album / "seen/a.png"), (album / "source/a.png").as_uri(), (album / "source/below/b [x].JPG").as_uri(),
    ):  # fmt: skip
        assert is_picture(pictures.find(name)), name
    assert pictures.refused() == []


def test_pictures_from_elsewhere_are_refused_with_one_sentence(album, monkeypatch):
    (album / "source/link.png").symlink_to(album / "private/a.png")
    (album / "source/away").symlink_to(album / "private")
    monkeypatch.chdir(album / "private")
    pictures = Pictures([album / "source"])
    outside = [
        "../private/a.png", "below/../../private/a.png", str(album / "private/a.png"), "link.png", "away/a.png",
        (album / "private/a.png").as_uri(), f"file:{album}/private/a.png", "/dev/stdin/../../etc/a.png",
        "../source-too/a.png", "../none.png", f"file:///{album}/source/%2e%2e/private/a.png",
    ]  # fmt: skip
    for name in outside:
        assert pictures.find(name) is None, name
        assert pictures.find(name) is None  # counted once
    (sentence,) = pictures.refused()
    assert f"{len(outside)} outside the source's folder" in sentence
    assert "--items-root" in sentence


def test_what_is_no_small_picture_is_not_opened_or_not_embedded(album):
    source = album / "source"
    os.mkfifo(source / "fifo.png")  # opening it would wait for ever
    (source / "folder.png").mkdir()
    (source / "svg.png").write_text("<svg onload=alert(1)>")
    (source / "svg.svg").write_text("<svg onload=alert(1)>")
    (source / "circle.png").symlink_to("circle.png")
    (source / "device.png").symlink_to("/dev/zero")
    with open(source / "huge.png", "wb") as stream:
        stream.write(PICTURE)
        stream.truncate(1 << 40)
    (source / "limit.png").write_bytes(PICTURE.ljust(MAX_BYTES, b"x"))
    (source / "over.png").write_bytes(PICTURE[:40].ljust(MAX_BYTES + 1, b"x"))  # no whole picture
    pictures = Pictures([source])
    assert pictures.find("limit.png") is not None
    for name in ("fifo", "folder", "svg", "circle", "huge", "over", "device", "missing"):
        assert pictures.find(f"{name}.png") is None, name
    for name in ("svg.svg", "missing\0.png", "file:///missing%00.png", "x" * 5000 + ".png", "https://x.org/a.png", ""):
        assert pictures.find(name) is None
    (sentence,) = pictures.refused()
    assert "1 missing" in sentence
    assert "1 outside the source's folder" in sentence  # the device
    assert "6 other than whole PNG, JPEG, GIF or WebP files of up to 64 MB" in sentence


def noise(pixels: int) -> bytes:
    """A picture of random pixels, which no format makes smaller."""
    drawn = np.random.default_rng(0).integers(0, 256, (pixels, pixels), np.uint8)
    return base64.b64decode(digit_png(drawn).split(",")[1])


def test_a_large_picture_becomes_a_thumbnail(album, monkeypatch):
    (album / "source/large.png").write_bytes(noise(700))
    found = Pictures([album / "source"]).find("large.png")
    assert found.startswith("data:image/jpeg;base64,")
    assert is_picture(found)
    with Image.open(io.BytesIO(base64.b64decode(found.partition(",")[2]))) as picture:
        assert picture.size == (SIDE_PIXELS, SIDE_PIXELS)
    monkeypatch.setattr("engine.report.images.can_shrink", lambda: False)
    pictures = Pictures([album / "source"])
    assert pictures.find("large.png") is None
    assert "1 of more than 100 kB, which takes pip install '" in pictures.refused()[0]
    assert "[pictures]'" in pictures.refused()[0]


def test_a_picture_that_unpacks_to_too_much_is_left(monkeypatch):
    monkeypatch.setattr("engine.report.thumbnails._MOST_PIXELS", 700 * 700 - 1)
    assert shrink(noise(700)) is None
    assert shrink(b"BM" + bytes(200_000)) is None


def test_pictures_fill_a_page_no_further_than_its_room(album):
    uri = digit_png(np.eye(4))
    pictures = Pictures([album / "source"], room=len(uri))
    assert pictures.find("a.png") == uri
    assert pictures.find("a.png") is None
    assert "1 for which the page has no room" in pictures.refused()[0]


def test_cells_of_the_source_are_pictures_or_their_paths(album):
    cells = {"image[0]": PICTURE, "image[1]": "a.png", "image[2]": "../private/a.png", "image[3]": b"no picture"}
    pictures = Pictures([album / "source"], lambda items: {item: cells[item] for item in items if item in cells})
    uri = digit_png(np.eye(4))
    pictures.fetch([*cells, "image[4]", "a.png"])
    assert [pictures.find(item) for item in (*cells, "image[4]")] == [uri, uri, None, None, None]


def test_only_few_pixels_are_shown_as_squares():
    assert is_tiny(digit_png(np.eye(64)))
    assert not is_tiny(digit_png(np.eye(65)))
    assert not is_tiny("data:image/jpeg;base64,/9j/")


def test_a_map_shows_clusters_by_size_and_the_doubtful_ones():
    points = [MapPoint(n, 4**n, n / 4, 0.5, weakest_score=n / 4, text=HOSTILE) for n in range(1, 5)]
    page = Page(render_report(replace(BARE, map=points, num_clusters=9, num_singletons=2)))
    drawn = [float(value) for tag, name, value in page.attributes if tag == "circle" and name == "r"]
    assert drawn[-4:] == sorted(drawn[-4:], reverse=True)  # the small ones lie on top
    assert drawn[-4] == pytest.approx(2 * drawn[-3], abs=0.1)
    assert "The 4 largest of 7 are shown." in page.words
    assert [value for tag, name, value in page.attributes if tag == "circle" and name == "class"] == ["b"]


def test_clusters_near_each_other_are_near_on_the_map():
    rng = np.random.default_rng(0)
    ends = rng.standard_normal((2, 8))
    places = flat(np.repeat(ends, 5, axis=0) + 0.05 * rng.standard_normal((10, 8)))
    assert places.min() == 0
    assert places.max() == 1
    centres = places.reshape(2, 5, 2).mean(axis=1)
    assert np.linalg.norm(places - np.repeat(centres, 5, axis=0), axis=1).max() < np.linalg.norm(
        centres[0] - centres[1]
    )
    assert flat(np.arange(1.0, 5.0)[:, np.newaxis]).shape == (4, 2)


def test_data_uris_must_be_what_they_say():
    png = digit_png(np.eye(3))
    assert Pictures([]).find(png) == png
    for uri in (
        "data:image/svg+xml;base64,PHN2Zz4=", "data:image/png;base64,PHN2Zz4=", "data:text/html;base64,PGI+",
        png.replace("image/png", "image/gif"), f"{png}\" onerror=\"alert(1)", f"{png}\n", png.upper(),
        "data:image/png;base64,AAAAA", "data:image/png;base64,", "data:image/png," + "x" * 9, png + "A" * 2 * MAX_BYTES,
    ):  # fmt: skip
        assert not is_picture(uri), uri[:60]
        assert Pictures([]).find(uri) is None


def test_long_items_are_cut_everywhere():
    word, picture = "x" * 30_000, digit_png(np.eye(2))
    gallery = Gallery("g", "e", [GalleryCluster(1, 2, [0, 1], [GalleryItem(word), GalleryItem(word, picture)])])
    page = Page(render_report(replace(BARE, galleries=[gallery])))
    cut = f"{word[:SHOWN_CHARACTERS]}…"
    assert cut in page.words
    assert word not in page.words
    turned = Gallery("g", "e", [GalleryCluster(1, 1, [0], [GalleryItem("\u202egnp.exe\x1b")])])
    assert r"\u202egnp.exe\x1b" in Page(render_report(replace(BARE, galleries=[turned]))).words
    assert max(len(value or "") for tag, name, value in page.attributes if name in ("alt", "title")) < 300


@pytest.mark.browser
@pytest.mark.parametrize("query", ["", "?theme=dark"])
def test_a_browser_shows_it_without_errors(tmp_path, query):
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        pytest.skip("needs Chromium or Chrome on the PATH")
    (tmp_path / "report.html").write_text(render_report(FULL), encoding="utf-8")
    flags = (
        "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
        f"--disable-component-update --disable-sync --user-data-dir={tmp_path / 'profile'} "
        f"--enable-logging=stderr --v=0 --window-size=390,900 --screenshot={tmp_path / 'page.png'} --dump-dom"
    )
    shown = subprocess.run(
        [browser, *flags.split(), f"{(tmp_path / 'report.html').as_uri()}{query}"],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert not [line for line in shown.stderr.splitlines() if "CONSOLE" in line]
    page = Page(shown.stdout)
    assert (("html", "data-theme", "dark") in page.attributes) == bool(query)  # so its script ran
    bars = [value for tag, name, value in page.attributes if tag == "rect" and name == "height" and value != "1000"]
    assert len(bars) >= 6
    assert all(float(height) > 0 for height in bars)
    assert page.tags.count("polyline") == 14
    assert (tmp_path / "page.png").stat().st_size > 10_000


def test_many_classes_and_stages_leave_room():
    bins = [SizeBin(1 << step, (2 << step) - 1, 5, 5 << step) for step in range(20)]
    stages = [StageRow(f"stage{number}", 1, 100.0 if number < 3 else 0.1) for number in range(30)]
    text = render_report(replace(FULL, size_bins=bins, stages=stages))
    assert ">524k<" in text  # from where on, not to where
    assert "524k–1" not in text
    assert text.count('<span class="value minor"') > 10
    assert "27 more, 2.7 s in all" in Page(text).words
