"""Pages have blocks that commands make: `benchmarks.readme` fills in these, and nothing else."""

import importlib
import json
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from absl import flags

from benchmarks import pages, plan_tables, readme, readme_parts
from benchmarks.readme_parts import PARTS, Part
from lrt_jax import __main__ as lrt

PAGE = """# A page

<!-- made by one: table -->
| old |
<!-- end -->
Prose, and a ``` fence.
<!-- made by other: output -->
<!-- end -->
the end, without a newline"""
NOTHING = {"FOLDER": "", "FILE": "", "PYTHON": ""}


def part(command: str, **fields) -> Part:
    """A part that takes no time."""
    blocks = {"README.md": {"table": readme_parts.table(0)}}
    return Part({"out": command}, **{"minutes": 1, "blocks": blocks, **fields})


def printing(*lines: str) -> str:
    return f"printf '%s\\n' {shlex.join(lines)}"


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A checkout of one page; commands run in it."""
    root = tmp_path / "checkout"
    root.mkdir()
    (root / "README.md").write_text(PAGE)
    monkeypatch.setattr(pages, "ROOT", root)
    return root


# ---------------------------------------------------------------------------- blocks


def test_blocks_are_filled_in_and_nothing_else_changes():
    made = {("one", "table"): "| new |\n| rows |\n"}
    text = pages.filled("p.md", PAGE, made)
    assert text == PAGE.replace("| old |", "| new |\n| rows |")
    assert pages.blocks("p.md", text) == {**made, ("other", "output"): ""}
    assert pages.filled("p.md", PAGE, {}) == PAGE


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("<!-- made by a: b -->\n", "p.md: <!-- made by a: b --> has no end; write <!-- end -->"),
        ("x\n<!-- end -->\n", "p.md:2: <!-- end --> without a begin"),
        ("<!-- made by a: b -->\n<!-- made by a: c -->\n", "p.md:2: .* before <!-- end --> of"),
        ("<!-- made by a -->\n<!-- end -->\n", "p.md:1: .*: write <!-- made by PART: BLOCK -->"),
        ("<!-- made by a: b -->\n<!-- end -->\n" * 2, "p.md:3: .* is there already"),
    ],
)
def test_comments_that_are_no_pairs_are_refused(text, told):
    with pytest.raises(ValueError, match=told):
        pages.filled("p.md", text, {})


def test_a_block_that_is_missing_or_that_nothing_makes_is_told_with_its_page(checkout):
    parts = {"one": part("true"), "other": part("true", blocks={"README.md": {"output": str}})}
    readme.check_blocks(parts)
    with pytest.raises(ValueError, match="README.md: nothing makes .* other: output -->"):
        readme.check_blocks({"one": parts["one"]})
    with pytest.raises(ValueError, match="README.md: there is no .* more: table -->; put"):
        readme.check_blocks({**parts, "more": part("true")})
    with pytest.raises(ValueError, match="docs/a.md: there is no .* more: table -->; put"):
        readme.check_blocks({**parts, "more": part("true", blocks={"docs/a.md": {"table": str}})})


# ---------------------------------------------------------------------------- the real pages


def test_every_block_of_the_pages_has_a_part_and_every_part_its_blocks():
    readme.check_blocks(PARTS)
    files = [file for each in PARTS.values() for file in (*each.files, *each.writes)]
    assert [file for file in files if not (pages.ROOT / file).is_file()] == []


@pytest.mark.parametrize(
    ("name", "which"),
    [*((name, "") for name in PARTS), ("plans", "one-int8"), ("plans", "repeated")],
)
def test_the_pages_show_the_command_of_a_part(name, which):
    """Of plans the one whose flags other rows of the table add to, and those that have tables."""
    one = PARTS[name]
    shown = [*one.blocks, *one.writes, *(file for file in one.files if file.endswith(".md"))]
    texts = [(pages.ROOT / page).read_text() for page in shown]
    texts = [" ".join(text.replace("\\\n", " ").split()) for text in texts]
    command = (one.commands.get(which) or next(iter(one.commands.values()))).removesuffix(" --json")
    if name == "run":  # into a folder of one's own
        command = command.removesuffix(" --workdir=DIR")
    command = command.replace("DIR/grpo_parity.md", "docs/grpo_parity.md")
    if name == "bad_input":
        command = "tests/test_bad_input.py"  # the page is about what users meet
    assert any(command in text for text in texts)


def test_the_commands_of_the_parts_have_flags_that_there_are():
    for one in PARTS.values():
        for command in one.commands.values():
            words = shlex.split(command)
            if words[0] == "lrt":
                words[:2] = ["-m", lrt.commands()[words[1]]]
            module = words[words.index("-m") + 1]
            if module in ("pytest", "benchmarks.trl_parity"):
                continue  # have parsers of their own
            values = flags.FlagValues()
            importlib.import_module(module).define_flags(values)
            for word in words[words.index("-m") + 2 :]:
                flag = word.removeprefix("--").partition("=")[0]
                assert flag in values or flag.startswith("config."), command


def test_plan_commands_set_fields_that_there_are():
    from lrt_jax.cli.commands import config_flag_problems

    words = [word for command in plan_tables.COMMANDS.values() for word in shlex.split(command)]
    assert [*config_flag_problems(words)] == []


# ---------------------------------------------------------------------------- running


def test_a_part_is_made_once_and_again_when_its_commands_change(checkout, tmp_path, capsys):
    out, count = tmp_path / "out", tmp_path / "count"
    command = f"echo once >> {count}; {printing('done', '| new |')}"
    assert readme.make({"one": part(command)}, out, NOTHING) == 0
    assert (checkout / "README.md").read_text() == PAGE.replace("| old |", "| new |")
    told = capsys.readouterr().out
    assert re.search(r"part 1/1 one: about 1 min, in .*/one; 0:00:0\d so far, ETA 0:01:00", told)

    (checkout / "README.md").write_text(PAGE)  # as by another commit
    assert readme.make({"one": part(command)}, out, NOTHING) == 0
    assert "part 1/1 one: ended earlier; 0:00:00 so far, ETA 0:00:00" in capsys.readouterr().out
    assert "| new |" in (checkout / "README.md").read_text()
    assert count.read_text() == "once\n"

    assert readme.make({"one": part(command + " '| more |'")}, out, NOTHING) == 0
    assert "| new |\n| more |\n" in (checkout / "README.md").read_text()
    assert count.read_text() == "once\nonce\n"
    assert (out / "one.1" / "out.out").read_text() == "done\n| new |\n"  # nothing is lost


def test_what_ran_at_which_commit_is_recorded(checkout, tmp_path):
    readme.make({"one": part(printing("| new |"))}, tmp_path / "out", NOTHING)
    record = json.loads((tmp_path / "out" / "one" / "record.json").read_text())
    assert record["ended"] == ["out"] and record["versions"].keys() >= {"jax", "flax"}
    assert record["commits"] == [readme.revision()["commit"]]
    assert readme_parts.commit(tmp_path / "out" / "one") == f"Commit {record['commits'][0]}."


@pytest.mark.parametrize("record", ["{}", "[]", "{"])
def test_a_record_that_is_none_is_told_with_a_remedy(record, tmp_path):
    (tmp_path / "record.json").write_text(record)
    told = f"{tmp_path}/record.json: .*; remove {tmp_path} to begin the part anew"
    with pytest.raises(ValueError, match=told):
        readme.state(part("true"), tmp_path)


def test_a_part_that_fails_says_why_and_the_next_one_is_made(checkout, tmp_path, capsys):
    output = {"blocks": {"README.md": {"output": readme_parts.line("done")}}}
    parts = {
        "one": part("echo '| half |'; echo no data >&2; exit 3"),
        "other": part("echo done", **output),
    }
    assert readme.make(parts, tmp_path / "out", NOTHING) == 1
    told = capsys.readouterr().out
    assert "one: failed, and its blocks stay as they are: echo" in told
    assert "exit code 3" in told and "end with\n  no data" in told
    text = (checkout / "README.md").read_text()
    assert "| old |" in text and "half" not in text and "-->\ndone\n<!-- end -->" in text
    parts["one"] = part("echo FAILED; exit 1")  # as pytest says it, on standard output
    readme.make(parts, tmp_path / "out", NOTHING)
    assert "end with\n  FAILED" in capsys.readouterr().out
    # An exit code that tells of a finding is none of a failure.
    parts["one"] = part("echo '| found |'; exit 1", told="| found |")
    assert readme.make(parts, tmp_path / "out", NOTHING) == 0


def test_an_output_of_which_no_block_can_be_made_is_told_with_page_and_block(
    checkout, tmp_path, capsys
):
    before = (checkout / "README.md").stat().st_mtime_ns
    assert readme.make({"one": part("echo no table")}, tmp_path / "out", NOTHING) == 1
    told = capsys.readouterr().out
    assert "README.md: <!-- made by one: table --> cannot be made of" in told
    assert "0 tables, and number 1 is wanted" in told and "remove" in told
    assert (checkout / "README.md").stat().st_mtime_ns == before


@pytest.mark.parametrize("resumes", [False, True])
def test_a_part_that_was_killed_goes_on_or_is_begun_anew(resumes, checkout, tmp_path):
    out = tmp_path / "out"
    commands = {"first": "echo x >> DIR/log", "out": "cat DIR/log; ls DIR | grep -v log; false"}
    one = Part(commands, 1, {"README.md": {"table": readme_parts.table(0)}}, resumes=resumes)
    assert readme.make({"one": one}, out, NOTHING) == 1
    assert readme.state(one, out / "one") == "begun"
    (out / "one" / "work" / "| left |").touch()  # of the command that did not end
    with pytest.raises(ValueError, match="exit code 1"):
        readme.run_part(one, out / "one", NOTHING, readme.revision())
    expected = "x\n| left |\n" if resumes else "x\n"
    assert (out / "one" / "out.out").read_text() == expected
    assert (out / "one.1").exists() == (not resumes)


def test_a_part_that_lacks_something_is_left_out_and_the_exit_code_says_so(
    checkout, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(readme.importlib.util, "find_spec", lambda name: None)
    parts = {
        "one": part("exit 1", needs="libtpu"),
        "other": part("exit 1", needs="LRT_TEST_DATA"),
        "third": part("exit 1", needs="peer_python"),
    }
    assert readme.make(parts, tmp_path / "out", {**NOTHING, "PYTHON": "/bin/false"}) == 2
    told = capsys.readouterr().out
    assert "one: left out, and its blocks stay as they are: libtpu is not installed" in told
    assert "other: left out" in told and "LRT_TEST_DATA names no folder" in told
    assert "third: left out" in told and "--peer_python=/bin/false: name the" in told
    assert (checkout / "README.md").read_text() == PAGE


def test_check_tells_what_differs_and_writes_nothing(checkout, tmp_path, capsys):
    out, picture = tmp_path / "out", {"docs/a.png": "a.png"}
    one = part(f"printf png > DIR/a.png; {printing('| new |')}", files=picture)
    assert readme.compare({"one": one}, out) == 2
    assert capsys.readouterr().out == "one: not compared: new\n"
    readme.make({"one": one}, out, NOTHING)
    assert (checkout / "docs/a.png").read_text() == "png"
    assert readme.compare({"one": one}, out) == 0
    (checkout / "README.md").write_text(PAGE)
    (checkout / "docs/a.png").write_text("other")
    capsys.readouterr()
    assert readme.compare({"one": one}, out) == 1
    differ = ["one: differs: docs/a.png", "one: differs: README.md: <!-- made by one: table -->"]
    assert capsys.readouterr().out.splitlines() == differ
    assert (checkout / "README.md").read_text() == PAGE


def test_parts_are_listed_with_their_state_and_an_unknown_one_is_refused(tmp_path):
    assert [*readme.chosen(["learning", "run"])] == ["run", "learning"]
    with pytest.raises(ValueError, match="--parts: no part lerning; there are bad_input, score, "):
        readme.chosen(["lerning"])
    lines = readme.listing(PARTS, tmp_path, NOTHING).splitlines()
    [run] = [line for line in lines if line.startswith("run ")]
    assert run.split()[:3] == ["run", "4", "new"] and "README.md (output); docs/curves.png" in run


@pytest.mark.slow
def test_a_stop_ends_the_command_that_runs(tmp_path):
    """In a process, on a part that sleeps."""
    code = (
        "from benchmarks import readme, readme_parts as p\n"
        "one = p.Part({'out': 'echo $$ > DIR/pid; exec sleep 60'}, 1)\n"
        "readme.chosen = lambda names: {'one': one}\n"
        "readme.run()\n"
    )
    command = [sys.executable, "-c", code, f"--workdir={tmp_path}"]
    process = subprocess.Popen(command, cwd=pages.ROOT, stdout=subprocess.PIPE, text=True)
    number = tmp_path / "one" / "work" / "pid"
    while not (number.exists() and number.read_text()):
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert "stopped by SIGTERM" in process.communicate(timeout=60)[0]
    assert not Path(f"/proc/{number.read_text().strip()}").exists()


# ---------------------------------------------------------------------------- what blocks are


def test_the_output_of_a_run_is_shortened(tmp_path):
    steps = [f"step {n}/100 reward" for n in (1, 4, 7, 11, 14, 97, 100)]
    workdir = tmp_path / readme_parts.WORK
    lines = ["preset tiny", "step 0: accuracy", *steps, "", f"model: {workdir}/export"]
    (tmp_path / "out.out").write_text("\n".join(lines) + "\n")
    assert readme_parts.run_output(tmp_path).splitlines() == [
        *("```", "preset tiny", "step 0: accuracy", "step 1/100 reward", "..."),
        *("step 11/100 reward", "...", "step 100/100 reward", ""),
        *("model: runs/imagereward/export", "```"),
    ]


def test_rows_of_a_table_may_be_left_out(tmp_path):
    lines = ["| a | b |", "|---|---|", "| accuracy as reward model | 1 |", "| trace truth | 2 |"]
    (tmp_path / "out.out").write_text("\n".join(["| first |", "", *lines, "Each run took"]))
    assert readme_parts.table(1)(tmp_path).splitlines() == lines
    kept = readme_parts.table(1, without=readme_parts.UNSAID)(tmp_path)
    assert kept.splitlines() == [*lines[:2], lines[3]]


def plan(seconds: float, flops: float = 1e15, **fields) -> dict:
    """As `lrt_jax.plan --json` prints it, as far as the pages need it."""
    piece = {"calls": 1, "hbm_gib_peak": 10.04, "resident_gib": 2.0, "outputs_gib": 1.0}
    piece |= {"flops": flops, "predicted_seconds": seconds, "share_of_peak": 0.5, "wire_gb": 2.0}
    piece |= {"bound_by": "hbm", "wire_seconds": 0.25}
    names = ["copy", *plan_tables.SHARED, "eval_copy", "eval_rollout"]
    pieces = [{**piece, "name": name} for name in names]
    pieces[0] |= {"share_of_peak": 0.0, "flops": 0}
    pieces[1]["calls"] = 2
    whole = {"topology": "v5e:8x8", "chips": 64, "mesh": {"data": 1, "fsdp": 16, "tensor": 4}}
    whole |= {"hbm_gib": 15.75, "hbm_gib_usable": 14.175, "hbm_gib_peak": 10.04}
    whole |= {"hbm_peak_at": "update", "step_seconds": 6 * seconds, "wire_seconds": 1.5}
    return whole | {"cost": {"chip_hours": 1234.5}, "pieces": pieces} | fields


def test_tables_of_plans_add_up_what_the_plans_say(tmp_path):
    for name in plan_tables.COMMANDS:
        slower = name == "repeated"
        found = plan(2.5 if slower else 1.25, 3e15 if slower else 1e15)
        (tmp_path / f"{name}.out").write_text(json.dumps(found))
    text = plan_tables.preset_plan(tmp_path, {"jax": "1", "libtpu": "2"})
    assert text.startswith("jax 1, libtpu 2; 64 pairs x 8 completions of 768 tokens, two images")
    assert "| copy, to the sampling layout | 10.0, 8.0 | 1,250 | - | hbm | 2.0 | 0.25 |" in text
    assert "| evaluation's rollout | 10.0, 8.0 | 1,250 | 50 % |" in text
    assert "eval_copy" not in text and "mesh fsdp 16 x tensor 4." in text
    assert "10.0 GiB at the update, of 14.2. A step is 7.5 s" in text
    row = plan_tables.machines(tmp_path).splitlines()[5]
    assert row.startswith("| `:7b` v5p:8x8x8 | `batch_size=512 eval.batch_size=512` | 10.0 of 14.2")
    assert row.endswith("| 1,250 | 50 % | 1,250 | 1,250 | 7.5 | 12, 1.5 |")
    assert "64 chips | `configs/imagereward.py:7b` | 10.0 of 15.8 | 7.5 | 77 |" in (
        plan_tables.sizes(tmp_path)
    )
    saved = plan_tables.prefix(tmp_path)
    assert "| encode | 2.00 | 6.00 | 2,500 | 5,000 |" in saved  # called twice
    assert "| whole step | 5.0 | 15.0 | 7,500 | 15,000 |" in saved
    assert saved.endswith("3.0 times the operations, and 2.0 times the time, wire not counted.")
    sampled = plan_tables.sampling(tmp_path).splitlines()
    assert sampled[2:4] == [
        "| the copy, GB a chip | 1.07 | 1.07 | 1.07 | 1.07 |",
        "| a rollout, s, its prompts included | 1.25 | 1.25 | 1.25 | 1.25 |",
    ]
    assert sampled[4].startswith("| a token of it, ms | 1.6 |")


def test_the_output_of_a_plan_is_shortened_to_a_step(tmp_path):
    lines = ["1/9 copy: known", "piece  s", "copy 1", "rollout  9", "update 3", "eval_rollout 2"]
    lines += ["", "memory: 10 GiB", "  a 1", "step: 9 s", "run of 1,600 steps"]
    (tmp_path / "text.out").write_text("\n".join(lines))
    kept = ["piece  s", "...", "rollout  9", "update 3", "...", "memory: 10 GiB", "..."]
    assert readme_parts.plan_output(tmp_path).splitlines() == ["```", *kept, "step: 9 s", "```"]
