"""Says whether a run fits TPUs that nobody has rented yet, how long a step takes and what it costs.

    lrt plan --config=imagereward:7b --topology=v5e:8x8

Compiles what the run would compile, with the TPU compiler of the `libtpu` wheel, on any Linux
machine: no weights, no data, no TPU. docs/tpu.md says which figures can be trusted. Exit code 1:
the run does not fit.
"""

import json
import sys

from absl import flags

from lrt_jax.cli import commands


def define_flags(values: flags.FlagValues) -> None:
    """Defines this command's flags."""
    commands.define_config(values)
    commands.define_text(values, "topology", "Kind and shape of a slice, such as v5e:8x8.")
    flags.DEFINE_integer(
        "slices", 1, "Slices that train together.", lower_bound=1, flag_values=values
    )
    names = "Pieces to look at, such as update,rollout; all of them if empty."
    flags.DEFINE_list("pieces", [], names, flag_values=values)
    pairs = "Pairs of an epoch, to tell its cost."
    flags.DEFINE_integer("pairs", None, pairs, lower_bound=1, flag_values=values)
    flags.DEFINE_bool("json", False, "Print one JSON object and nothing else.", flag_values=values)
    fresh = "Compile all, whatever is known from earlier."
    flags.DEFINE_bool("fresh", False, fresh, flag_values=values)


def main(values: flags.FlagValues) -> None:
    """Runs the command with flags that are parsed."""
    from lrt_jax.planning.plan import make_plan
    from lrt_jax.planning.table import plan_table
    from lrt_jax.planning.topology import Topology, compile_for_tpus

    compile_for_tpus()
    config = commands.config_for_tpus(values.config, data_are_read=False)
    topology = Topology(values.topology, values.slices)
    plan = make_plan(
        config,
        topology,
        pieces=values.pieces,
        fresh=values.fresh,
        progress=_to_stderr if values.json else commands.log,
    )
    if values.json:
        print(json.dumps(plan.to_dict(values.pairs), indent=1))
    else:
        commands.log(f"\n{plan_table(plan, values.pairs)}")
    if not plan.fits:
        sys.exit(1)


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    commands.run(main, define_flags)
