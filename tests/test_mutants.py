"""The faults that `benchmarks/mutants.py` plants are those that it says."""

import ast
import builtins

from benchmarks import mutants
from benchmarks.mutants import Known, sample, table
from benchmarks.mutants_operators import instrumented, mutants_of

SOURCE = '''"""Text == 1."""
LIMIT: int = 2


def share(votes: "Float[Array, 3]", total, logger):
    """Divides 1 by 2."""
    if not votes and total > 0:
        raise ValueError(f"{total + 1} votes")
    logger.info("3 votes")
    votes.sort(min(total, votes))
    return share(votes, FIRST) / total
'''


def after(kind):
    found = (m for m in mutants_of("a.py", SOURCE) if m.kind == kind)
    return [(m.line, m.before, m.after) for m in found]


def test_each_kind_of_fault_is_planted_where_it_can_be():
    assert after("constant") == [
        (2, "2", "(1)"),
        (2, "2", "(3)"),
        (7, "0", "(-1)"),
        (7, "0", "(1)"),
    ]
    assert after("comparison") == [(7, "total > 0", "(total >= 0)")]
    assert after("and, or") == [(7, "not votes and total > 0", "(not votes or total > 0)")]
    assert after("operator left out") == [(7, "not votes", "(votes)")]
    assert [line for line, *_ in after("statement left out")] == [8, 10]
    assert after("arguments swapped") == [(11, "share(votes, FIRST)", "(share(FIRST, votes))")]
    assert after("name") == [(11, "FIRST", "SECOND")]
    assert after("value returned") == [(11, "share(votes, FIRST) / total", "None")]
    assert after("arithmetic")[0][2] == "(share(votes, FIRST) * total)"


def test_texts_annotations_and_what_is_logged_are_left_alone():
    lines = {m.line for m in mutants_of("a.py", SOURCE)}
    assert lines == {2, 7, 8, 10, 11}


def test_a_fault_changes_its_place_and_nothing_else():
    for mutant in mutants_of("a.py", SOURCE):
        changed = mutant.apply(SOURCE)
        ast.parse(changed)
        lines = zip(SOURCE.splitlines(), changed.splitlines(), strict=True)
        assert [i for i, (a, b) in enumerate(lines, 1) if a != b] == [mutant.line]


def test_instrumented_functions_say_that_they_are_called(monkeypatch):
    places, space = [], {}
    monkeypatch.setattr(builtins, "reached", places.append, raising=False)
    source = (
        'def half(x):\n    """Of x."""\n    def over(y):\n        return x / y\n    return over(2)'
    )
    exec(instrumented("a.py", source), space)
    assert space["half"](3) == 1.5 and space["half"].__doc__ == "Of x."
    assert places == ["a.py:1", "a.py:3"]


def test_a_sample_is_drawn_by_its_seed_from_the_code_that_makes_numbers():
    one, other = sample(30, 0), sample(30, 1)
    assert one == sample(30, 0) != other
    every = sample(10**6, 0)
    assert len({m.name for m in every}) == len(every) > 1000
    assert all(m.file.startswith("lrt_jax/") for m in every)


def test_the_quickest_test_that_calls_the_function_comes_first():
    mutant = next(m for m in mutants_of("a.py", SOURCE) if m.line == 10)
    assert mutant.function == 5
    reached = {"t::slow": {"a.py": [5]}, "t::quick": {"a.py": [5]}, "t::other": {"a.py": [9]}}
    known = Known({"t::slow": 3.0, "t::quick": 1.0, "t::other": 0.1, "u::x": 0.1}, reached)
    assert known.callers(mutant) == ["t::quick", "t::slow"]
    assert set(known.wider(mutant)) == {"t::slow", "t::quick", "t::other"}


def test_survivors_are_listed_and_the_others_counted(monkeypatch):
    line = {"file": "a.py", "line": 1, "kind": "constant", "before": "1", "after": "2"}
    text = table([line | {"outcome": "caught"}, line | {"outcome": "survived"}])
    assert "| all | 1 | 0 | 0 | 1 |" in text
    assert "Of 2 faults, 0 change nothing that anybody could see. Of the 2 others the tests" in text
    assert "the tests caught 1.\n" in text
    assert text.endswith("survived: a.py:1: constant: 1 -> 2")
    assert mutants.ROOT.joinpath("lrt_jax").is_dir()


def test_the_faults_that_nobody_could_tell_are_there():
    """A line that is changed is to be looked at again."""
    places = ((str(path.relative_to(mutants.ROOT)), path) for path in mutants.mutated_files())
    names = {x.name for place, path in places for x in mutants_of(place, path.read_text())}
    assert mutants.EQUIVALENT.keys() <= names
