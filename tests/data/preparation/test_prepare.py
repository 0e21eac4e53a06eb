"""What goes into a prepared set, what is left out, and that it appears whole or not at all."""

import dataclasses
import io
import json
import os
import runpy
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from absl import flags
from PIL import Image

from lrt_jax import prepare as command
from lrt_jax.data.captions import normalise
from lrt_jax.data.dataset import prepared_set
from lrt_jax.data.dataset.prepared_set import PreparedSet
from lrt_jax.data.images import UNREADABLE, ImageError, decode
from lrt_jax.data.preparation import image_scan
from lrt_jax.data.preparation import prepare as module
from lrt_jax.data.preparation.decontamination import open_test_sets, unchecked
from lrt_jax.data.preparation.merge import make_plan, split_of
from lrt_jax.data.preparation.prepare import prepare
from lrt_jax.data.preparation.report import _few_notes, generator_prior
from lrt_jax.data.preparation.writing import verify
from lrt_jax.data.schema import FIRST, SECOND, TIE, FileRef, Group
from lrt_jax.data.sources import InputFolder, SourceError, read_groups
from tests.logs import logged
from tests.training.small_run import write_hpdv2

FRACTIONS = {"train": 0.5, "test": 0.5}
CAPTIONS = (  # no two of them near one another
    "a cat on a mat",
    "two dogs running",
    "mountains under snow",
    "an old tram in Lisbon",
    "portrait of a violinist",
    "green glass bottle",
    "robots playing chess",
    "the sea at night",
    "market stall with oranges",
    "paper lanterns",
)


def png(seed: int, size=(40, 30)) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def hpd_test(folder, groups=8, size=3):
    """HPDv2's test layout with two annotators: the first image wins, the other two tie."""
    (folder / "test").mkdir(parents=True)
    records = []
    for g in range(groups):
        names = [f"{g}-{i}.png" for i in range(size)]
        for i, name in enumerate(names):
            (folder / "test" / name).write_bytes(png(100 * g + i))
        one, other = list(range(1, size + 1)), [1, *range(size, 1, -1)]
        records.append(
            {
                "prompt": CAPTIONS[g],
                "image_path": names,
                "rank": ((np.array(one) + other) / 2).tolist(),
                "raw_annotations": [{"rank": one, "user_hash": "u"}, {"rank": other}],
            }
        )
    (folder / "test.json").write_text(json.dumps(records))
    return folder


def everything(folder):
    prepared = PreparedSet(folder)
    pairs = [repr(prepared.pair(row)) for row in range(prepared.num_pairs)]
    return pairs, [prepared.image(row) for row in range(prepared.num_images)]


def test_folders_whose_names_are_patterns_are_read_and_written(tmp_path):
    for name in ("run1", "run[1]", "a\\b"):
        hpd_test(tmp_path / "in" / name, groups=3)
        report = prepare("hpdv2", tmp_path / "in" / name, tmp_path / "out" / name)
        assert PreparedSet(tmp_path / "out" / name).num_images == report.images == 9
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"run1", "run[1]", "a\\b"}


def test_a_set_behind_a_link_is_made_where_the_link_leads_to(tmp_path):
    source = hpd_test(tmp_path / "in", groups=3)
    link, target = tmp_path / "out", tmp_path / "big disk" / "mine"
    target.mkdir(parents=True)
    link.symlink_to(target)
    report = prepare("hpdv2", source, link)
    assert prepare("hpdv2", source, link) == report  # which is reused
    assert link.is_symlink() and PreparedSet(target).num_images == report.images
    assert {path.name for path in tmp_path.iterdir()} == {"in", "out", "big disk"}
    assert [path.name for path in target.parent.iterdir()] == ["mine"]


def test_bad_records_are_told_together_or_left_out_and_counted(tmp_path):
    source = hpd_test(tmp_path / "in")
    records = json.loads((source / "test.json").read_text())
    records[2]["rank"] = [1.0, float("nan"), 3.0]
    records[5]["prompt"] = " "
    del records[6]["image_path"]
    (source / "test.json").write_text(json.dumps(records))
    with pytest.raises(SourceError, match=r"record 2: field 'rank' is .*\(2 more\); mend it, or"):
        prepare("hpdv2", source, tmp_path / "out")
    report = prepare("hpdv2", source, tmp_path / "out", on_bad_example="skip")
    assert (report.groups, report.images, report.pairs) == (5, 15, 15)
    assert [line.split(":")[0] for line in report.bad_records] == [
        f"test.json, record {i}" for i in (2, 5, 6)
    ]
    told = command.summary(report)
    assert "3 bad records left out" in told
    assert "left out: test.json, record 5: field 'prompt' is empty" in told
    assert prepare("hpdv2", source, tmp_path / "out", on_bad_example="skip") == report


def test_what_is_written_is_read_back(tmp_path):
    source = hpd_test(tmp_path / "in")
    report = prepare("hpdv2", source, tmp_path / "out")
    assert (report.groups, report.images, report.pairs, report.ties) == (8, 24, 24, 8)
    assert (report.dropped, report.conflicts, report.merged_pairs, report.self_pairs) == (0,) * 4
    assert report.splits == {"test": {"groups": 8, "pairs": 24, "ties": 8, "clusters": 8}}
    assert json.loads((tmp_path / "out" / "build_report.json").read_text())["pairs"] == 24

    prepared = PreparedSet(tmp_path / "out")
    first, last = prepared.pair(0), prepared.pair(23)
    assert (first.prompt, first.votes, first.label, first.rank) == (
        CAPTIONS[0],
        (2.0, 0.0),
        FIRST,
        (1.0, 2.5),
    )
    assert first.p_first == pytest.approx(2.5 / 3)
    assert (last.label, last.p_first, last.cluster) == (TIE, 0.5, 7)
    assert prepared.labels.tolist() == [FIRST, FIRST, TIE] * 8
    image = prepared.image(last.image_index[1])
    assert image.image == png(702)
    assert (image.width, image.height, image.source, image.valid) == (40, 30, "hpdv2", True)
    with pytest.raises(IndexError):
        prepared.pair(24)
    with pytest.raises(ValueError, match=r"no split 'train'; it has test \(24 pairs\)"):
        prepared.rows("train")


def test_two_builds_are_equal(tmp_path):
    source = write_hpdv2(tmp_path / "in")
    options = {"split_fractions": FRACTIONS, "seed": 3, "near_duplicates": "keep"}
    one = prepare("hpdv2", source, tmp_path / "one", **options)
    other = prepare("hpdv2", source, tmp_path / "other", **options)
    assert one == other
    assert everything(tmp_path / "one") == everything(tmp_path / "other")
    assert any("override" in note for note in one.notes)


# ---------------------------------------------------------------------------- bad images


def test_bad_images_stop_the_build_by_name(tmp_path):
    source = hpd_test(tmp_path / "in")
    whole = (source / "test" / "1-0.png").read_bytes()
    (source / "test" / "1-0.png").write_bytes(whole[: len(whole) // 2])
    (source / "test" / "2-2.png").unlink()
    with pytest.raises(ImageError, match=r"1-0\.png: truncated.*2-2\.png: no such file"):
        prepare("hpdv2", source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_bad_images_can_be_left_out_and_are_counted(tmp_path):
    source = hpd_test(tmp_path / "in")
    (source / "test" / "1-0.png").write_bytes(b"")
    (source / "test" / "2-2.png").unlink()
    (source / "test" / "3-1.png").write_bytes(png(1, (2900, 14)))
    report = prepare("hpdv2", source, tmp_path / "out", on_bad_example="skip")
    assert report.dropped == 3
    assert report.drop_reasons == {
        "aspect ratio over 200": 1,
        "empty file": 1,
        "no such file": 1,
    }
    assert report.dropped_images["test/1-0.png"] == "empty file"
    assert report.dropped_pairs == 6
    assert report.pairs == 18
    for row in range(report.images):
        decode(PreparedSet(tmp_path / "out").image(row).image, "x")


# ---------------------------------------------------------------------------- merging


def imagereward(folder, lines):
    """ImageReward's pairs: (group, prompt, image, image, rank, rank); images by seed."""
    (folder / "images").mkdir(parents=True)
    names = ("group_id", "prompt", "image_0", "image_1", "rank_0", "rank_1")
    for line in lines:
        for name in line[2:4]:
            (folder / "images" / name).write_bytes(png(int(name.split("-")[0])))
    text = "\n".join(json.dumps(dict(zip(names, line, strict=True))) for line in lines)
    (folder / "pairs.jsonl").write_text(text)
    return folder


def test_votes_of_the_same_pair_are_merged(tmp_path):
    lines = [
        ("a", "p", "1", "2", 1, 2),
        ("b", "p", "2-copy", "1-copy", 1, 2),  # the same files, the other way round: a conflict
        ("c", "p", "1", "2", 1, 2),
        ("d", "another caption", "1", "2", 2, 1),  # not the same judgement
        ("e", "p", "1", "1-copy", 1, 2),  # an image with itself
    ]
    report = prepare("imagereward", imagereward(tmp_path / "in", lines), tmp_path / "out")
    assert (report.pairs, report.images, report.groups) == (2, 2, 2)
    assert (report.merged_pairs, report.conflicts, report.self_pairs) == (2, 1, 1)
    assert report.duplicate_images == 2
    pairs = [PreparedSet(tmp_path / "out").pair(row) for row in range(2)]
    by_prompt = {pair.prompt: pair for pair in pairs}
    assert by_prompt["p"].votes == (2, 1)
    assert by_prompt["p"].label == FIRST
    assert by_prompt["another caption"].label == SECOND
    assert report.first_listed_wins == 0.5


# ---------------------------------------------------------------------------- splits


def test_equal_captions_fall_into_one_split(tmp_path):
    lines = []
    for i in range(60):
        caption = f"Scene {i}" if i % 2 else f"  scene, {i + 1}. "
        lines.append((str(i), caption, str(2 * i), str(2 * i + 1), 1, 2))
    source = imagereward(tmp_path / "in", lines)
    fractions = {"train": 0.5, "validation": 0.25, "test": 0.25}
    report = prepare(
        "imagereward",
        source,
        tmp_path / "out",
        split_fractions=fractions,
        near_duplicates="keep",
    )
    prepared = PreparedSet(tmp_path / "out")
    places = {}
    for split, rows in prepared.splits.items():
        for row in rows:
            pair = prepared.pair(row)
            assert pair.split == split
            assert pair.cluster == prepared.clusters[row]
            places.setdefault(normalise(pair.prompt), set()).add((split, pair.cluster))
    assert len(places) == 30
    assert all(len(place) == 1 for place in places.values())
    assert list(report.splits) == ["train", "validation", "test"]
    assert sum(split["clusters"] for split in report.splits.values()) == 30


def test_splits_follow_the_fractions_and_the_seed():
    groups = [Group(str(i), f"caption {i}", ("a", "b"), ()) for i in range(2000)]
    fractions = {"train": 0.8, "test": 0.2}
    chosen = [split_of(group, fractions, seed=0) for group in groups]
    assert abs(chosen.count("test") - 400) < 80
    assert chosen == [split_of(g, dict(reversed(fractions.items())), seed=0) for g in groups]
    assert chosen != [split_of(g, fractions, seed=1) for g in groups]
    own = Group("0", "caption", ("a", "b"), (), split="validation")
    assert split_of(own, None, 0) == "validation"
    assert split_of(own, {"train": 1.0}, 0) == "train"


SHARES = {"train": 0.5, "validation": 0.5}


@pytest.mark.parametrize("fractions", [None, SHARES])
def test_no_fractions_cut_a_split_that_is_published_for_testing(tmp_path, fractions):
    source = write_hpdv2(tmp_path / "in")
    hpd_test(tmp_path / "in")
    options = {"split_fractions": fractions, "near_duplicates": "keep"}
    report = prepare("hpdv2", source, tmp_path / "out", **options)
    prepared = PreparedSet(tmp_path / "out")
    groups = {prepared.pair(row).group_id for row in prepared.rows("test")}
    assert groups == {f"test-{i}" for i in range(8)}
    assert len(report.splits) == (3 if fractions else 2)
    assert report.own_splits == (("test",) if fractions else ("train", "test"))
    assert "hpdv2 (test)" not in report.unchecked  # it was compared, as its own test split
    if fractions:
        assert report.notes == (
            "split_fractions override the source's own splits (train: 20 groups)",
            "split_fractions leave splits that are published for testing whole (test: 8 groups)",
        )
        with pytest.raises(ValueError, match="'test' is a split that hpdv2 publishes for testing"):
            prepare("hpdv2", source, tmp_path / "other", split_fractions=FRACTIONS)
    with pytest.raises(ValueError, match="test is published for testing and never cut"):
        prepared.rows("nowhere")


def test_a_test_split_that_was_cut_here_is_not_the_published_one(tmp_path):
    source = write_hpdv2(tmp_path / "in")
    options = {"split_fractions": FRACTIONS, "near_duplicates": "keep"}
    report = prepare("hpdv2", source, tmp_path / "out", **options)
    assert report.splits["test"]["pairs"] and not report.own_splits
    assert "hpdv2 (test)" in report.unchecked
    assert "hpdv2 (test)" in unchecked(open_test_sets([tmp_path / "out"]))


def test_the_config_of_hpdv2_trains_on_no_published_test_pair(tmp_path, real_data):
    path = Path(__file__).parents[3] / "configs" / "hpdv2.py"
    fractions = dict(runpy.run_path(str(path))["get_config"]("tiny").data.split_fractions)
    gallery = json.loads((real_data / "hpd_gallery" / "test.json").read_text())[:3]
    (tmp_path / "in" / "images").mkdir(parents=True)
    (tmp_path / "in" / "test.json").write_text(json.dumps(gallery))
    for name in (name for record in gallery for name in record["image_path"]):
        shutil.copy(real_data / "hpd_gallery" / "images" / name, tmp_path / "in" / "images")
    report = prepare("hpdv2", tmp_path / "in", tmp_path / "out", split_fractions=fractions)
    assert list(report.splits) == ["test"] and report.pairs == 3 * 36


def plan_of(count: int, fractions=None, **options):
    """Of so many pairs, each of a caption of its own."""
    groups = [
        Group(str(i), f"caption {i}", (FileRef(f"{i}a"), FileRef(f"{i}b")), ((0, 1, 1.0, 0.0),))
        for i in range(count)
    ]
    refs = [ref for group in groups for ref in group.images]
    facts = {ref: image_scan.ImageFacts(ref, str(ref)) for ref in refs}
    return groups, facts, make_plan("folder", groups, facts, fractions, 0, **options)


@pytest.mark.parametrize(
    ("count", "share", "least"),
    [(30, 0.05, 0), (60, 0.25, 10), (300, 0.15, 30), (1000, 0.05, 30), (9000, 0.05, 400)],
)
def test_by_default_validation_has_enough_pairs_to_tell_anything_if_it_can(count, share, least):
    _, _, plan = plan_of(count)
    assert plan.fractions["validation"] == plan.fractions["test"] == share
    assert len(plan.splits.get("validation", ())) >= least
    assert len(plan.splits["train"]) > count * (1 - 2 * share) * 0.8


def notes_of(count, fractions):
    plan = plan_of(count, fractions)[2]
    return _few_notes(plan, {"split_fractions": fractions}, ())


def test_a_validation_split_that_is_too_small_is_told_with_a_remedy():
    chosen, small = notes_of(60, None)
    assert chosen.endswith("cut by train=0.5,validation=0.25,test=0.25")
    assert small.startswith("split validation has 1") and "too few to hold that many" in small
    (small,) = notes_of(100, {"train": 0.9, "validation": 0.1})
    assert small.endswith(
        "cut more of them with split_fractions, such as train=0.55,validation=0.45"
    )
    (none,) = notes_of(5, {"train": 0.99, "validation": 0.01})
    assert none.startswith("split validation has 0 pairs with a preference, of 0 captions")
    assert not notes_of(1000, None) and not notes_of(1000, {"train": 1.0})


@pytest.mark.parametrize(
    ("fractions", "message"),
    [
        ({"train": 0.5}, "add up to 0.5"),
        ({"train": 1.2, "test": -0.2}, "'train' has the fraction 1.2"),
        ({"all": 1.0}, "not 'all'"),
        ({}, "add up to 0"),
    ],
)
def test_bad_fractions(tmp_path, fractions, message):
    with pytest.raises(ValueError, match=message):
        prepare("hpdv2", tmp_path, tmp_path / "out", split_fractions=fractions)


def test_captions_without_words_are_still_told_apart():
    assert normalise("A  Cat, sitting.") == normalise("a cat SITTING")
    assert normalise("!!!") != normalise("???")


# ---------------------------------------------------------------------------- the prior


def test_generator_prior_reads_indices_only():
    def group(ranks, size=3):
        pairs = tuple((i, j, 1.0, 0.0) for i in range(size) for j in range(i + 1, size))
        return Group("g", "p", tuple("abc"[:size]), pairs, ranks=ranks)

    assert generator_prior([group((1, 2, 3)), group((1, 2, 3))]) == 1
    assert generator_prior([group((1, 2, 3)), group((3, 2, 1))]) == 0.5  # each misled by the other
    assert generator_prior([group((1, 2, 3))]) is None
    assert generator_prior([group((1, 2, 3)), group((1, 2), size=2)]) is None
    assert generator_prior([group(None), group(None)]) is None


# ---------------------------------------------------------------------------- outputs


def test_a_finished_output_is_reused_and_another_refused(tmp_path):
    source, out = hpd_test(tmp_path / "in"), tmp_path / "out"
    with logged() as lines:
        first = prepare("hpdv2", source, out)
        written = (out / "build_report.json").stat().st_mtime_ns
        assert prepare("hpdv2", source, out) == first
    assert len(lines) == 1
    assert "reused" in lines[0]
    assert (out / "build_report.json").stat().st_mtime_ns == written
    with pytest.raises(FileExistsError, match=r"seed=0, not 1.*another output"):
        prepare("hpdv2", source, out, seed=1)
    (source / "test" / "0-0.png").write_bytes(png(999))
    with pytest.raises(FileExistsError, match="input_digest"):
        prepare("hpdv2", source, out)


def test_strangers_files_are_never_overwritten(tmp_path):
    source, out = hpd_test(tmp_path / "in"), tmp_path / "out"
    out.mkdir()
    (out / "thesis.tex").write_text("x")
    with pytest.raises(FileExistsError, match="no prepared set"):
        prepare("hpdv2", source, out)
    assert [path.name for path in out.iterdir()] == ["thesis.tex"]


def test_a_build_that_fails_has_no_output_and_is_gone_on_with(tmp_path, monkeypatch):
    source, out = hpd_test(tmp_path / "in"), tmp_path / "out"
    monkeypatch.setattr(prepared_set, "SHARD_BYTES", 20_000)
    whole = prepare("hpdv2", source, tmp_path / "whole")
    write, written = prepared_set.write_shard, []

    def fails_at_third(path, *rest):
        written.append(path.name)
        if len(written) == 3:
            raise OSError(5, "the disk fails")
        write(path, *rest)

    monkeypatch.setattr(os, "cpu_count", lambda: 1)  # so that shards are written in their order
    monkeypatch.setattr(prepared_set, "write_shard", fails_at_third)
    with pytest.raises(OSError, match="the disk fails"):
        prepare("hpdv2", source, out)
    assert not out.exists()
    with pytest.raises(FileNotFoundError, match=r"lrt_jax\.prepare"):
        PreparedSet(out)

    def no_decoding(*_):
        raise AssertionError("an image was decoded again")

    monkeypatch.setattr(image_scan, "inspect", no_decoding)
    begun = set(written[:2])
    with logged() as lines:
        assert prepare("hpdv2", source, out) == whole
    assert "going on" in lines[0]
    assert not begun & set(written[3:])  # shards that were whole
    assert everything(out) == everything(tmp_path / "whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out", "whole"]


def test_what_was_begun_with_other_images_is_not_taken_for_these(tmp_path, monkeypatch):
    source, out = hpd_test(tmp_path / "in"), tmp_path / "out"
    verify = module.verify
    monkeypatch.setattr(module, "verify", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        prepare("hpdv2", source, out)
    (source / "test" / "3-1.png").write_bytes(png(77))
    monkeypatch.setattr(module, "verify", verify)
    prepare("hpdv2", source, out)
    assert png(77) in [image.image for image in everything(out)[1]]
    with (out / "input.jsonl").open() as log:
        assert len(list(log)) == 1 + 24


def test_a_damaged_log_of_images_is_told_and_can_be_done_without(tmp_path):
    source, out = hpd_test(tmp_path / "in"), tmp_path / "out"
    made = prepare("hpdv2", source, out)
    log = out / "input.jsonl"
    whole = log.read_bytes()
    for damaged in (b"\x89PNG", whole.replace(b'"stamp"', b'"st', 1)):
        log.write_bytes(damaged)
        with pytest.raises(ValueError, match=f"{log}: cannot be used .*; remove it, and all"):
            prepare("hpdv2", source, out)
    log.unlink()
    assert prepare("hpdv2", source, out) == made


def test_what_could_not_be_read_is_read_again(tmp_path, monkeypatch):
    source, out = hpd_test(tmp_path / "in"), tmp_path / "out"
    load = InputFolder._load_loose

    def busy(self, ref, most):
        if ref.file == "test/3-1.png":
            raise ImageError(ref.file, UNREADABLE, "too many open files")
        return load(self, ref, most)

    monkeypatch.setattr(InputFolder, "_load_loose", busy)
    with pytest.raises(ImageError, match="cannot be read .too many open files"):
        prepare("hpdv2", source, out)
    monkeypatch.setattr(InputFolder, "_load_loose", load)
    prepare("hpdv2", source, out)
    prepare("hpdv2", source, tmp_path / "fresh")
    assert everything(out) == everything(tmp_path / "fresh")


def test_mended_records_give_what_a_build_from_nothing_gives(tmp_path):
    source = hpd_test(tmp_path / "in")
    whole = (source / "test.json").read_text()
    (source / "test.json").write_text(whole.replace('"0-1.png"', '"nowhere.png"'))
    with pytest.raises(ImageError, match=r"nowhere\.png: no such file"):
        prepare("hpdv2", source, tmp_path / "out")
    (source / "test.json").write_text(whole)
    prepare("hpdv2", source, tmp_path / "out")
    prepare("hpdv2", source, tmp_path / "fresh")
    assert everything(tmp_path / "out") == everything(tmp_path / "fresh")


def test_an_output_that_appears_meanwhile_is_found(tmp_path, monkeypatch):
    source, out = hpd_test(tmp_path / "in"), tmp_path / "out"
    first = prepare("hpdv2", source, tmp_path / "other")
    taken = module._is_taken

    def late(output):
        monkeypatch.setattr(module, "_is_taken", taken)
        shutil.copytree(tmp_path / "other", out)
        return False

    monkeypatch.setattr(module, "_is_taken", late)
    with logged() as lines:
        assert prepare("hpdv2", source, out) == first
    assert "reused" in lines[-1]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "other", "out"]


def test_only_what_changed_is_read_to_find_an_output(tmp_path, monkeypatch):
    source, out = hpd_test(tmp_path / "in"), tmp_path / "out"
    first, read = prepare("hpdv2", source, out), []
    digest = module._file_digest
    monkeypatch.setattr(
        module, "_file_digest", lambda *given: read.append(given[0]) or digest(*given)
    )
    os.utime(source / "test" / "2-1.png")
    assert prepare("hpdv2", source, out) == first
    assert [ref.file for ref in read] == ["test/2-1.png"]


def test_writing_ends_soon_after_a_shard_fails(tmp_path, monkeypatch):
    source = hpd_test(tmp_path / "in", groups=10)
    monkeypatch.setattr(prepared_set, "SHARD_BYTES", 8_000)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    begun = []

    def slow(path, *_):
        begun.append(path)
        if len(begun) == 1:
            raise OSError(5, "the disk fails")
        time.sleep(0.1)

    monkeypatch.setattr(prepared_set, "write_shard", slow)
    with pytest.raises(OSError, match="the disk fails"):
        prepare("hpdv2", source, tmp_path / "out")
    assert len(begun) < 6  # of 15 or so


def test_groups_of_one_name_in_two_splits_stay_two(tmp_path):
    names = [f"{i}.png" for i in range(4)]
    for split, pair in (("train", names[:2]), ("test", names[2:])):
        folder = tmp_path / "in" / split
        folder.mkdir(parents=True)
        records = []
        for rank, name in enumerate(pair, start=1):
            (folder / name).write_bytes(png(int(name[0])))
            record = {"image_path": name, "prompt_id": "7", "rank": rank}
            records.append(record | {"prompt": CAPTIONS[len(split)]})
        (folder / f"{split}_1.json").write_text(json.dumps(records))
    report = prepare("imagereward", tmp_path / "in", tmp_path / "out", split_fractions={"a": 1.0})
    prepared = PreparedSet(tmp_path / "out")
    assert len({prepared.pair(row).uid for row in range(2)}) == report.groups == report.pairs == 2


def test_verification_finds_a_wrong_record(tmp_path):
    source = hpd_test(tmp_path / "in")
    prepare("hpdv2", source, tmp_path / "out")
    groups, folder = read_groups("hpdv2", source), InputFolder(source)
    refs = [ref for group in groups for ref in group.images]
    facts = {ref: image_scan.inspect(ref, load) for ref, load in folder.loads(refs)}
    plan = make_plan("hpdv2", groups, facts, None, 0)
    prepared = PreparedSet(tmp_path / "out")
    verify(prepared, plan)
    plan.splits["test"][5] = dataclasses.replace(plan.splits["test"][5], image_index=(0, 1))
    with pytest.raises(ValueError, match="pair 5"):
        verify(prepared, plan)
    plan.files[2] = plan.files[3]
    with pytest.raises(ValueError, match="image 2"):
        verify(prepared, plan)


def test_large_sets_are_sharded(tmp_path, monkeypatch):
    source = hpd_test(tmp_path / "in")
    monkeypatch.setattr(prepared_set, "SHARD_BYTES", 20_000)
    prepare("hpdv2", source, tmp_path / "out")
    assert len(list((tmp_path / "out" / "images").glob("*array_record*"))) > 2
    assert len(everything(tmp_path / "out")[1]) == 24


def test_nothing_to_prepare(tmp_path):
    with pytest.raises(SourceError, match="no such folder"):
        prepare("hpdv2", tmp_path / "in", tmp_path / "out")
    source = hpd_test(tmp_path / "in", groups=1)
    for file in (source / "test").iterdir():
        file.unlink()
    with pytest.raises(ValueError, match="left of 3 images: 3 were dropped with bad images"):
        prepare("hpdv2", source, tmp_path / "out", on_bad_example="skip")


# ---------------------------------------------------------------------------- command


def parsed(*args):
    values = flags.FlagValues()
    command.define_flags(values)
    values(["prepare", *map(str, args)])
    return values


def test_command(tmp_path):
    source, out = hpd_test(tmp_path / "in"), tmp_path / "out"
    args = ["--source=hpdv2", f"--input={source}", f"--output={out}"]
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "lrt_jax.prepare",
            *args,
            "--split_fractions=train=0.5,validation=0.5",
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "8 groups, 24 images, 24 pairs, 8 of them ties" in done.stdout
    assert PreparedSet(out).num_pairs == 24


def test_command_says_what_a_user_can_mend(tmp_path, capsys):
    source, out = hpd_test(tmp_path / "in"), tmp_path / "out"
    args = ["--source=hpdv2", f"--input={source}", f"--output={out}"]
    command.main(parsed(*args))
    assert "an image's maker, or its place in its group, alone predicts" in capsys.readouterr().out
    with pytest.raises(FileExistsError, match="another output"):
        command.main(parsed(*args, "--seed=1"))
    with pytest.raises(ValueError, match="name=fraction"):
        command.main(parsed(*args, "--split_fractions=0.5,0.5"))
    with pytest.raises(flags.Error, match="on_bad_example"):
        parsed(*args, "--on_bad_example=ignore")
    with pytest.raises(ValueError, match="--output must be given, or --inspect"):
        command.main(parsed(*args[:2]))


# ---------------------------------------------------------------------------- real data


def test_hpd_gallery(tmp_path, real_data):
    report = prepare("hpdv2", real_data / "hpd_gallery", tmp_path / "out")
    assert (report.groups, report.images, report.pairs, report.ties) == (75, 675, 2700, 135)
    assert report.dropped == report.duplicate_images == report.conflicts == 0
    assert report.first_listed_wins == pytest.approx(0.523, abs=5e-4)
    assert report.generator_prior == pytest.approx(0.834, abs=5e-4)


def test_imagereward_sample(tmp_path, real_data):
    report = prepare("imagereward", real_data / "imagereward_test", tmp_path / "out")
    assert (report.groups, report.images, report.pairs, report.ties) == (1, 4, 6, 0)
    assert report.first_listed_wins == 1
    assert report.generator_prior is None
