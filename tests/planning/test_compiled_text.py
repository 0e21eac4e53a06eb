"""Compiled programs, read: how often what runs, and what that moves. The texts are made up."""

import pytest

from lrt_jax.planning.compiled_text import Collective, read

FUSION = (
    '  %f.{n} = f32[8]{{0}} fusion(%p), kind=kLoop, backend_config={{"estimated_cycles":"{c}"}}'
)


def fusion(cycles: int, number: int = 1) -> str:
    return FUSION.format(n=number, c=cycles)


def program(entry: list[str], **computations: list[str]) -> str:
    """A text with an entry and further computations, each a list of lines."""
    parts = [
        f"%{name} (p: f32[8]) -> f32[8] {{\n" + "\n".join(x) for name, x in computations.items()
    ]
    parts.append("ENTRY %main (p: f32[8]) -> f32[8] {\n" + "\n".join(entry))
    return "HloModule made_up\n\n" + "\n}\n\n".join(parts) + "\n}\n"


def loop(body: str, condition: str) -> str:
    return f"  %w = (s32[], f32[8]) while(%t), condition=%{condition}, body=%{body}"


def counts_to(number: int) -> list[str]:
    return [
        f"  %constant.1 = s32[]{{:T(128)}} constant({number})",
        "  ROOT %lt = pred[]{:T(512)} compare(%i, %constant.1), direction=LT, metadata={}",
    ]


UNTIL_DONE = [
    "  %constant.1 = s32[]{:T(128)} constant(768)",
    "  %lt = pred[] compare(%i, %constant.1), direction=LT",
    "  ROOT %and = pred[]{:T(512)} and(%lt, %not_all_done)",
]


def test_a_loop_counts_as_often_as_it_turns():
    found = read(
        program([fusion(1), loop("layer", "bound")], layer=[fusion(10)], bound=counts_to(28))
    )
    assert found.cycles == 1 + 28 * 10 and found.unknown_loops == 0


def test_loops_inside_of_loops():
    text = program(
        [loop("token", "until_done")],
        token=[fusion(1), loop("layer", "bound")],
        layer=[fusion(10)],
        bound=counts_to(28),
        until_done=UNTIL_DONE,
    )
    found = read(text, turns=768)
    assert found.cycles == 768 * (1 + 28 * 10)
    assert (found.assumed_loops, found.unknown_loops) == (1, 0)


def until_done(room: int) -> list[str]:
    return [line.replace("768", str(room)) for line in UNTIL_DONE]


def test_loops_over_tokens_count_on_from_one_another():
    """Each of them has more room than the one before; they end together."""
    text = program(
        [loop("short", "c256"), loop("long", "c512"), loop("longest", "c600")],
        **{"short": [fusion(1)], "long": [fusion(10)], "longest": [fusion(100)]},
        **{"c256": until_done(256), "c512": until_done(512), "c600": until_done(600)},
    )
    found = read(text, turns=600)
    assert found.cycles == 256 * 1 + 256 * 10 + 88 * 100
    assert (found.assumed_loops, found.unknown_loops) == (3, 0)


@pytest.mark.parametrize("turns", [None, 512])
def test_a_loop_that_the_data_end_is_counted_as_unknown(turns):
    """Without a number of turns; and with one that is another loop's."""
    text = program([loop("token", "until_done")], token=[fusion(7)], until_done=UNTIL_DONE)
    found = read(text, turns=turns)
    assert (found.cycles, found.assumed_loops, found.unknown_loops) == (7, 0, 1)


def test_what_the_compiler_knows_of_a_loop():
    known = loop("body", "bound") + ', backend_config={"known_trip_count":{"n":"5"}}'
    assert read(program([known], body=[fusion(3)], bound=UNTIL_DONE)).cycles == 15


def test_the_longest_branch_counts():
    branches = "  %c = f32[8] conditional(%i, %a, %b), branch_computations={%short, %long}"
    text = program([branches], short=[fusion(2)], long=[fusion(5), fusion(6)])
    assert read(text).cycles == 11
    two = "  %c = f32[8] conditional(%i, %a), true_computation=%short, false_computation=%long"
    assert read(program([two], short=[fusion(2)], long=[fusion(5)])).cycles == 5


def test_what_has_no_estimate_is_counted_and_kernels_apart():
    nobody_knows = fusion(2**63 - 1)
    kernel = (
        '  %splash_mha_fwd.3 = bf16[8] custom-call(%q), custom_call_target="tpu_custom_call", '
        'backend_config={"estimated_cycles":"9223372036854775807"}'
    )
    found = read(program([loop("b", "c")], b=[nobody_knows, kernel], c=counts_to(4)))
    assert (found.cycles, found.without_estimate) == (0, 1)
    assert found.kernels == {"splash_mha_fwd": 4}


GROUPS = {
    "replica_groups=[16,4]<=[64]": 4,
    "replica_groups={{0,1},{2,3}}": 2,
    "replica_groups=mesh['a'=16,'b'=4] {'a','b'}": 64,
    "replica_groups=mesh['a'=16,'b'=4], device_ids=([8,8]) {'b'}": 4,
    "replica_groups=of_a_new_form": 0,
}


@pytest.mark.parametrize("groups", GROUPS)
def test_groups(groups):
    line = f"  %g = bf16[64,8]{{1,0}} all-gather(%x), channel_id=1, {groups}, dimensions={{0}}"
    [found] = (text := read(program([line]))).collectives
    assert found == Collective("all-gather", GROUPS[groups], 1024, 1)
    assert text.unknown_groups == (not GROUPS[groups])


@pytest.mark.parametrize(
    ("kind", "sent"),
    [
        ("all-gather", 0.75),
        ("all-reduce", 1.5),
        ("reduce-scatter", 3.0),  # of four shares three go on
        ("all-to-all", 0.75),
        ("collective-permute", 1.0),
    ],
)
def test_bytes_on_the_wire(kind, sent):
    assert Collective(kind, 4, 1000, 2).wire == 2 * 1000 * sent


def test_a_group_that_nobody_knows_counts_as_a_large_one():
    assert Collective("all-reduce", 0, 1000, 1).wire == 2000


def test_a_collective_beside_other_work_counts_once():
    """It then stands in the computations of all that it runs beside, as one of a chain."""
    line = "  %g.{} = bf16[64] all-gather(%x), channel_id=1, replica_groups=[1,4]<=[4]"
    chained = line + ', frontend_attributes={{chain_id="0"}}'
    text = program(
        [loop("body", "bound"), line.format(3)],
        body=[
            "  %a = bf16[64] fusion(%x), calls=%start",
            "  %b = bf16[64] fusion(%a), calls=%done",
        ],
        start=[chained.format(1)],
        done=[chained.format(2)],
        bound=counts_to(3),
    )
    assert sorted(x.times for x in read(text).collectives) == [1, 3]


def test_collectives_of_one_channel_count_each():
    """What `shard_map` gathers and scatters may have one channel together."""
    line = "  %s.{} = bf16[64] reduce-scatter(%x.{}), channel_id=1, replica_groups=[1,4]<=[4]"
    found = read(program([line.format(n, n) for n in (1, 2, 3)])).collectives
    assert [x.kind for x in found] == ["reduce-scatter"] * 3


def test_a_sum_of_which_a_share_is_taken_in_one_fusion_is_a_reduce_scatter():
    line = "  %a = bf16[64] all-reduce(%x), channel_id=1, replica_groups=[1,4]<=[4]"
    text = program(
        ["  %f = bf16[16] fusion(%x), kind=kCustom, calls=%all-reduce-scatter.3.clone.1"],
        **{"all-reduce-scatter.3.clone.1": [line, "  ROOT %s = bf16[16] dynamic-slice(%a, %i)"]},
    )
    [found] = read(text).collectives
    assert (found.kind, found.size) == ("reduce-scatter", 32)
    assert found.wire == 3 * 32


def test_asynchronous_collectives_have_what_goes_in_beside_what_comes_out():
    groups = "channel_id=1, replica_groups=[1,4]<=[4]"
    gather = f"  %g = (bf16[16], bf16[64]) all-gather-start(%x), {groups}"
    reduce = f"  %r = (f32[64], f32[64]) all-reduce-start(%x), {groups}"
    found = {x.kind: x.size for x in read(program([gather, reduce])).collectives}
    assert found == {"all-gather": 128, "all-reduce": 256}


STARTED = {  # what starts a collective, and bytes of what comes out
    "one without its operand": ("f32[64] all-reduce-start(%x)", 256),
    "several without their operands": ("(f32[64], f32[16]) all-reduce-start(%x, %y)", 320),
    "several with their operands": (
        "((bf16[16]{0:T(8,128)}, bf16[2]), (bf16[64]{0}, bf16[8])) "
        "all-gather-start(bf16[16]{0:T(8,128)} %x, bf16[2] %y)",
        144,
    ),
    "one that leaves less than goes in": ("(f32[64], f32[16]) reduce-scatter-start(%x)", 64),
    "one with flags of its own": (
        "(f32[64], f32[64], u32[]{:S(2)}, u32[]{:S(2)}) collective-permute-start(%x)",
        256,
    ),
}


@pytest.mark.parametrize("case", STARTED)
def test_what_comes_out_of_asynchronous_collectives_is_sent(case):
    started, size = STARTED[case]
    line = f"  %s = {started}, channel_id=1, replica_groups=[1,4]<=[4], dimensions={{0}}"
    [found] = read(program([line])).collectives
    assert found.size == size


def test_arrays_of_a_type_that_is_not_known_are_counted():
    line = "  %g = (f4e9m9[64], bf16[64], {}[]) all-gather(%x, %y, %z), replica_groups=[1,4]<=[4]"
    found = read(program([line.format("token"), fusion(1).replace("f32", "f4e9m9")]))
    assert found.unknown_arrays == 1  # a token has no bytes, and what is not sent does not matter
    assert [x.size for x in found.collectives] == [128]


def test_a_text_of_another_form_is_refused():
    with pytest.raises(ValueError, match="no compiled program"):
        read("module @jit_f {}")
