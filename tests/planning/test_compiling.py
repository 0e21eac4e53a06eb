"""What the compiler said is kept, and anything that could change it asks again."""

import dataclasses

import jax
import pytest

from lrt_jax.models.api import Flops
from lrt_jax.planning import compiling
from lrt_jax.planning.compiling import compile_piece
from lrt_jax.planning.topology import GIB
from lrt_jax.rl.tracing import Trace
from tests.planning.made import mesh_of_four, small_piece

pytestmark = pytest.mark.usefixtures("unchecked")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "lrt_jax" / "plans"


def test_a_piece_is_compiled_once(cache):
    first, known = compile_piece(small_piece(), "cpu")
    assert not known and len([*cache.iterdir()]) == 1
    assert compile_piece(small_piece(), "cpu") == (first, True)
    assert not compile_piece(small_piece(), "cpu", fresh=True)[1]


def test_what_lives_beside_a_piece_is_no_matter():
    piece = small_piece()
    compile_piece(piece, "cpu")
    assert compile_piece(dataclasses.replace(piece, alive={"x": piece.arguments}), "cpu")[1]


@pytest.mark.parametrize("damage", [b"", b"{}", b"[1]", b'{"compiled": {"seconds": 1}}'])
def test_a_damaged_entry_is_computed_anew(cache, damage):
    first, _ = compile_piece(small_piece(), "cpu")
    [entry] = cache.iterdir()
    entry.write_bytes(damage)
    again, known = compile_piece(small_piece(), "cpu")
    assert not known and again.temporaries == first.temporaries
    assert compile_piece(small_piece(), "cpu")[1]


def test_an_entry_that_somebody_changed_is_computed_anew(cache):
    compile_piece(small_piece(), "cpu")
    [entry] = cache.iterdir()
    entry.write_text(entry.read_text().replace('"temporaries": ', '"temporaries": 1'))
    assert not compile_piece(small_piece(), "cpu")[1]


def test_whatever_matters_asks_again(monkeypatch):
    piece = small_piece()
    compile_piece(piece, "cpu")
    assert not compile_piece(piece, "another")[1]
    assert not compile_piece(dataclasses.replace(piece, tokens=5), "cpu")[1]
    monkeypatch.setenv("LIBTPU_INIT_ARGS", "--xla_something=true")
    assert not compile_piece(piece, "cpu")[1]
    monkeypatch.setattr(compiling, "_version", lambda package: "newer")
    assert not compile_piece(piece, "cpu")[1]


def test_arguments_that_are_not_read_matter():
    """The program is the same with and without them; which of them it reads is not."""

    def read(*shapes):
        trace = Trace(mesh_of_four())
        arguments = [trace.rows(shape, "float32") for shape in shapes]
        trace.call("last", jax.jit(lambda *xs: xs[-1] + 1), *arguments, flops=Flops())
        return compile_piece(trace.pieces[0], "cpu")[0].read_arguments

    assert read((4,)) == (True,)
    assert read((8,), (4,)) == (False, True)


REFUSALS = {
    "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 30.60G of 15.75G hbm. "
    "Exceeded hbm capacity by 14.85G.": (30.6 * GIB, 0),
    "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO temporaries "
    "(192.00G) exceeds available HBM (15.75G).": (0, 192 * GIB),
    "RESOURCE_EXHAUSTED: in other words": (0, 0),
}


@pytest.mark.parametrize("message", REFUSALS)
def test_too_little_memory_is_an_answer(message):
    found = compiling._refused(message, 3.0, 4)
    assert (found.wanted, found.temporaries) == pytest.approx(REFUSALS[message])
    assert found.program is None and found.refused == message


def test_other_failures_of_the_compiler_are_none(monkeypatch):
    def fail(self):
        raise jax.errors.JaxRuntimeError("INTERNAL: a bug")

    monkeypatch.setattr(jax.stages.Lowered, "compile", fail)
    with pytest.raises(jax.errors.JaxRuntimeError, match="a bug"):
        compile_piece(small_piece(), "cpu")
