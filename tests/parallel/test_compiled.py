"""What the compiler made of the sharded pieces: what moves between devices, and how large it is.

Every check is shown to fail on a program that does what it forbids.
"""

import functools
import inspect
import math

import jax
import pytest
from flax import traverse_util

from lrt_jax.parallel.collectives import batch_sharding
from lrt_jax.parallel.mesh import make_mesh
from lrt_jax.rl.frozen import Reading
from lrt_jax.rl.logprobs import token_logps
from tests.parallel import pieces
from tests.parallel.compiled_text import Instruction, collectives, largest_array, loops, parse
from tests.parallel.pieces import GROUP, PAIRS, SAMPLING, TIME, VOCABULARY, make_pieces

MESHES = {
    "fsdp": {"fsdp": 4},
    "fsdp and tensor": {"fsdp": 2, "tensor": 2},
    "data": {"data": 2, "fsdp": 2},
}
DEFAULTS = inspect.unwrap(token_logps).__kwdefaults__
CHUNK = DEFAULTS["chunk"]


def program_of(jitted, *args, **static):
    """The compiled program of one device, read."""
    return parse(jitted.lower(*args, **static).compile().as_text())


@functools.cache
def of_mesh(name: str, rows: bool = True) -> pieces.Pieces:
    return make_pieces(make_mesh(**MESHES[name]), rows=rows)


def features(made: pieces.Pieces) -> jax.ShapeDtypeStruct:
    """As `encode_images` gives them; here they need only a sharding."""
    shape = (PAIRS, 2 * pieces.PATCHES // 4, pieces.CONFIG.text.hidden_size)
    return jax.ShapeDtypeStruct(shape, "float32", sharding=batch_sharding(made.mesh))


# ---------------------------------------------------------------------------- sampling


def sampler(made: pieces.Pieces, params):
    model = made.model.copy(sharding=batch_sharding(made.mesh, "sample"))
    inputs = (made.batch.prompt, made.batch.target, features(made))
    seeds = jax.ShapeDtypeStruct((3,), "uint32")
    return program_of(made.engine._sample, model, params, inputs, seeds, GROUP, SAMPLING)


def moved_for_each_token(program) -> list[Instruction]:
    """Collectives of the loop over tokens: the one that has the loop over layers inside it."""
    outer = [x for x in loops(program) if any(y.kind == "while" for y in x)]
    assert outer and len(outer) < len(loops(program))  # the prompt's layers have a loop alone
    return [x for loop in outer for x in collectives(loop)]


@pytest.mark.parametrize("name", MESHES)
def test_tokens_are_sampled_without_gathering_weights(name):
    made = of_mesh(name)
    moved = moved_for_each_token(sampler(made, made.engine.sampler_params(made.params)))
    if name == "fsdp":  # whether all have ended, and nothing else
        assert [(x.kind, x.largest) for x in moved] == [("all-reduce", 1)], moved
    logits = PAIRS // made.mesh.shape["fsdp"] * GROUP * VOCABULARY  # of one token, on one device
    assert all(x.largest <= logits for x in moved), [x.line for x in moved]
    assert logits < smallest_matrix(made)


@pytest.mark.parametrize("name", MESHES)
def test_sampling_with_parameters_of_training_is_seen(name):
    made = of_mesh(name)
    moved = moved_for_each_token(sampler(made, made.params))
    assert max(x.largest for x in moved) >= smallest_matrix(made)
    assert "all-gather" in {x.kind for x in moved}


def smallest_matrix(made: pieces.Pieces) -> int:
    """Elements of the smallest matrix of one layer of the decoder."""
    flat = traverse_util.flatten_dict(made.params["decoder"]["layers"], sep="/")
    return min(math.prod(x.shape[1:]) for path, x in flat.items() if path.endswith("kernel"))


# ---------------------------------------------------------------------------- log-probabilities


def update(made: pieces.Pieces):
    state, updater = made.learner()
    first = jax.ShapeDtypeStruct((), "bool")
    return program_of(updater._update, state, made.experience(features(made)), first)


def frozen_pass(made: pieces.Pieces, readings: int = 1):
    experience = made.experience(features(made))
    whole = Reading(experience.prompt, experience.tokens, experience.length)
    shorter = Reading(experience.prompt, experience.tokens[..., :20], experience.length)
    return program_of(
        made.engine._frozen_pass,
        made.model,
        made.params,
        experience.features,
        (whole, shorter)[:readings],
        answer_ids=(5, 6),
        temperature=1.0,
    )


@pytest.mark.parametrize("piece", [update, frozen_pass])
@pytest.mark.parametrize("name", MESHES)
def test_logits_are_of_one_chunk(name, piece):
    """In whichever shape: nothing at all is larger than the logits of one chunk."""
    rows = PAIRS // 4 * GROUP
    largest = largest_array(piece(of_mesh(name)))
    assert largest.largest == rows * CHUNK * VOCABULARY, largest.line
    assert CHUNK < TIME


@pytest.fixture
def whole_chunk(monkeypatch):
    """All tokens in one chunk; nothing that was traced with another is taken for it."""
    monkeypatch.setitem(DEFAULTS, "chunk", TIME)
    jax.clear_caches()
    yield
    jax.clear_caches()


@pytest.mark.parametrize("piece", [update, frozen_pass])
def test_logits_of_all_tokens_are_seen(piece, whole_chunk):
    largest = largest_array(piece(make_pieces(make_mesh(fsdp=4))))
    assert largest.largest == PAIRS // 4 * GROUP * TIME * VOCABULARY, largest.line


# ---------------------------------------------------------------------------- layers


def encode(made: pieces.Pieces):
    return program_of(made.engine._encode, made.model, made.params, made.batch.images)


def moved_in_layers(program) -> list[Instruction]:
    """Collectives of all loops."""
    return [x for loop in loops(program) for x in collectives(loop)]


@pytest.mark.parametrize("piece", [frozen_pass, encode])
@pytest.mark.parametrize("name", MESHES)
def test_layers_gather_their_weights_and_nothing_else(name, piece):
    made = of_mesh(name)
    moved = moved_in_layers(piece(made))
    assert moved and {x.kind for x in moved} == {"all-gather"}, [x.line for x in moved]
    whole = {math.prod(x.shape[1:]) for x in jax.tree.leaves(made.params)} | {
        made.params["embedding"].size
    }
    steps = {size // n for size in whole for n in (1, made.mesh.shape["tensor"])}
    assert {x.largest for x in moved} <= steps, [x.line for x in moved]


def test_weights_are_gathered_once_for_all_that_a_frozen_model_reads():
    made = of_mesh("fsdp and tensor")
    one, two = (moved_in_layers(frozen_pass(made, readings)) for readings in (1, 2))
    assert one and sorted(x.shapes for x in one) == sorted(x.shapes for x in two)


@pytest.mark.parametrize("name", MESHES)
def test_activations_that_are_added_up_are_seen(name):
    moved = moved_in_layers(frozen_pass(of_mesh(name, rows=False)))
    assert "all-reduce" in {x.kind for x in moved}


def whole_batches(program) -> list[Instruction]:
    """Collectives anywhere that bring the activations of all rows together; ids may be."""
    beginnings = ((PAIRS, pieces.PROMPT), (PAIRS, GROUP, TIME))
    return [
        x
        for x in collectives([y for lines in program.values() for y in lines])
        if any(s[: len(b)] == b and s[len(b) :] > (1,) for s in x.shapes for b in beginnings)
    ]


@pytest.mark.parametrize("name", MESHES)
def test_an_update_scatters_gradients_as_it_adds_them_up(name):
    """Of matrices; those of norms and biases are whole on every device, as these are."""
    made = of_mesh(name)
    program = update(made)
    moved = moved_in_layers(program)
    kinds = {"all-gather", "reduce-scatter", "all-reduce"}
    assert {x.kind for x in moved} == kinds, [x.line for x in moved]
    if name != "data":  # across which all parameters are whole
        whole = max(x.largest for x in moved if x.kind == "all-reduce")
        assert whole < smallest_matrix(made), [x.line for x in moved]
    assert not whole_batches(program), [x.line for x in whole_batches(program)]


@pytest.mark.parametrize("name", MESHES)
def test_activations_of_the_whole_batch_are_seen(name):
    assert whole_batches(update(of_mesh(name, rows=False)))
