"""What all commands do alike: flags, errors in one line, results as a table."""

import contextlib
import functools
import math
import os
import re
import runpy
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from logging import CRITICAL, getLogger
from pathlib import Path
from typing import Any

import ml_collections
from absl import app, flags, logging
from etils import epath
from ml_collections import config_flags
from ml_collections.config_flags.config_flags import ConfigFileFlagParser

from lrt_jax.cli.config_help import config_help
from lrt_jax.cli.output import log, outlive_terminal, show_log
from lrt_jax.config import Config, default_config, parse_config
from lrt_jax.config.checks import rows_problems
from lrt_jax.config.files import config_path
from lrt_jax.config.presets import AUTO, leave_out_scene_splits, resolve_auto
from lrt_jax.config.reading import ConfigError, unknown_field
from lrt_jax.config.schema import flat
from lrt_jax.data.plain_text import shown
from lrt_jax.parallel import processes
from lrt_jax.parallel.mesh import AXES, mesh_shape
from lrt_jax.parallel.platform import check_devices, leave_out_missing_tpu
from lrt_jax.parallel.shutdown import (
    ShutdownHandler,
    StopSignals,
    install_handlers,
    pass_over_exits,
)
from lrt_jax.storage.bucket import SCHEME, explain_refusals
from lrt_jax.storage.disk import OF_THE_PROCESS, REFUSALS, expanded, locked

IN_A_BUCKET = re.compile(rf"{SCHEME}[^/]+(/[^/]+)*/*")  # not gs:///run: of a variable that is unset
HELP = re.compile(r"--?(help(?:short|full|xml)?|\?)")
FREE_FIELDS = ("data.split_fractions", "rewards.weights")  # hold names of the user's own
UNREAD = "data-that-are-not-read"  # stands for a data set's folder that nobody needs
NONE = "None"  # of a config's field: no value

flags.disclaim_key_flags()  # what is defined here is listed in the --help of the command


class _OrNone(flags.ArgumentParser):
    """Reads `None` as no value, and all else as another parser does; for fields of configs."""

    def __init__(self, parser: flags.ArgumentParser):
        self._parser, self.syntactic_help = parser, parser.syntactic_help

    def parse(self, argument: Any) -> Any:
        """The value that a flag's text stands for."""
        return None if argument == NONE else self._parser.parse(argument)

    def flag_type(self) -> str:
        """The type of values, for the help."""
        return self._parser.flag_type()


class _ConfigParser(ConfigFileFlagParser):
    """Loads a config by the name under which it ships with the package, or by its path."""

    def parse(self, argument: str) -> ml_collections.ConfigDict:
        """The config that a flag's text stands for."""
        name, *preset = argument.split(":", 1)
        return super().parse(":".join([str(config_path(name)), *preset]))


def run(
    main: Callable[[flags.FlagValues], None], define_flags: Callable[[flags.FlagValues], None]
) -> None:
    """Runs a command: bad input ends it with a line that says what to do, not with a trace.

    With `LRT_DEBUG=1` the whole trace is shown.

    Args:
      main: takes the parsed flags.
      define_flags: defines them; not done at import, so that importing a command claims no names.
    """
    outlive_terminal()
    show_log()
    ending, sys.unraisablehook = ShutdownHandler(), pass_over_exits
    install_handlers(ending.in_order)
    define_flags(flags.FLAGS)
    with StopSignals(ending.anyhow):
        app.run(lambda argv: _guarded(main, argv), flags_parser=_parse_flags)


def _parse_flags(argv: list[str]) -> list[str]:
    """Parses flags; what cannot be read of them, or of the config, is an error at once."""
    wrong = dict(config_flag_problems(argv[1:])) | dict(_unknown_flags(argv[1:]))
    problems = list(wrong.values())
    rest = [argument for argument in argv if argument not in wrong]
    sys.argv = rest  # where the flags library looks for config fields
    try:
        rest = flags.FLAGS(rest)
        if wrong:
            problems += config_problems()
    except SystemExit as shown:  # of absl, to which help is an error
        asked = [x[1] for x in map(HELP.fullmatch, argv) if x]
        if "config" in flags.FLAGS and {*asked} & {"help", "helpfull"}:
            print(f"\n{config_help()}")
        sys.exit(0 if asked else shown.code)
    except Exception as error:  # of the config file too, which is a program
        if debugging() and not wrong:
            raise
        problems += [] if wrong else [_plain(error)]  # which may be for want of a wrong one
    if problems:
        sys.exit("error: in the flags:\n" + "\n".join(f"  {problem}" for problem in problems))
    return rest


def _plain(error: Exception) -> str:
    """A line about flags that cannot be parsed."""
    text = str(error).replace("\\n", " ")
    if missing := re.findall(r"flag (--\w+)=None", text):
        return f"{', '.join(missing)} must be given; see --help"
    if "Traceback" in text:  # of the config file, in the message; its last line says it
        return text.strip().splitlines()[-1]
    return text


def _unknown_flags(arguments: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Unknown flags: the argument, and a line about it."""
    for argument in arguments:
        name = argument.lstrip("-").partition("=")[0]
        if not argument.startswith("--") or name.startswith("config.") or not name:
            continue
        if name not in flags.FLAGS and name.removeprefix("no") not in flags.FLAGS:
            fields = [x for x in flat(default_config()) if x.rpartition(".")[2] == name]
            hint = f"did you mean --config.{fields[0]}?" if fields else "see --help"
            yield argument, f"--{name}: no such flag; {hint}"


def debugging() -> bool:
    """Whether `LRT_DEBUG` asks for whole traces."""
    return os.environ.get("LRT_DEBUG", "0") not in ("", "0")


def config_flag_problems(arguments: Sequence[str]) -> Iterator[tuple[str, str]]:
    """What is wrong with `--config=FILE` and every `--config.FIELD=VALUE`: argument and line.

    The flags library would stop at the first, and name a field without the one that it is in.
    """
    fields = flat(default_config())
    for argument in arguments:
        name, given, value = argument.partition("=")
        if name.lstrip("-") == "config" and given:
            try:
                config_path(value.partition(":")[0])
            except ValueError as error:
                yield argument, f"--config={value}: {error}"
        elif name.startswith("--config."):
            field = name.removeprefix("--config.")
            if field not in fields and field.rpartition(".")[0] not in FREE_FIELDS:
                yield argument, f"--config.{unknown_field(field, fields)}"
            elif given and not _fits(kind := _kind_of(field), value):
                yield argument, f"{name}: {value!r} is no {kind.__name__}"


def config_problems() -> list[str]:
    """What is wrong with the config of the flags, whichever preset it comes to."""
    values = flags.FLAGS["config"].value
    if "preset" not in values:
        return ["preset: not set; a config file begins with lrt_jax.config.presets.preset_config"]
    candidates = [_with_overrides(x) for x in AUTO] if values.preset == "auto" else [values]
    found = [_problems_with(candidate) for candidate in candidates]
    return [problem for problem in found[0] if all(problem in others for others in found)]


def _problems_with(values: ml_collections.ConfigDict) -> list[str]:
    try:
        parse_config(values, _problems_of_parts)
    except ConfigError as error:
        return error.problems
    return []


def _kind_of(field: str) -> type:
    """The type of a field's values; names of the user's own have numbers."""
    part, _, name = field.rpartition(".")
    if part in FREE_FIELDS:
        return float
    parents = part.split(".") if part else ()
    return functools.reduce(getattr, parents, default_config()).get_type(name)


def _fits(kind: type, text: str) -> bool:
    """Whether a text can stand for a number, where the field is one."""
    if kind in (int, float) and text != NONE:  # the config checks it
        try:
            kind(text)
        except ValueError:
            return False
    return True


def _guarded(main: Callable[[flags.FlagValues], None], argv: list[str]) -> None:
    if len(argv) > 1:
        sys.exit(f"error: {' '.join(argv[1:])}: not a flag; flags are --name=value, see --help")
    if not flags.FLAGS["verbosity"].present:
        quieten()
    with processes.together():
        _told_in_a_line(main)


def quieten() -> None:
    """Leaves out what the libraries say and nobody need know."""
    logging.set_verbosity(logging.WARNING)  # their own tale is long
    for name in ("gcsfs", "fsspec"):  # which show a trace of what is then raised
        getLogger(name).setLevel(CRITICAL)
    # Orbax warns of every folder that it is asked not to write to.
    getLogger("absl").addFilter(lambda record: "directory is read only" not in record.getMessage())


def _told_in_a_line(main: Callable[[flags.FlagValues], None]) -> None:
    if debugging():
        main(flags.FLAGS)
        return
    try:
        with explain_refusals(f"{SCHEME}...", "read or written"):  # where nobody knew the folder
            main(flags.FLAGS)
    except (ValueError, OSError, KeyError, FloatingPointError) as error:  # what a user can mend
        notes = getattr(error, "__notes__", ())
        if getattr(error, "errno", None) in OF_THE_PROCESS and not notes:
            notes = [REFUSALS[error.errno]]
        message = error.args[0] if isinstance(error, KeyError) else error
        message = "\n  ".join([f"error: {message}", *notes])
        sys.exit(f"{shown(message)}\n(LRT_DEBUG=1 shows where)")


def define_config(values: flags.FlagValues) -> None:
    """The flag `--config`, with `--config.FIELD` for every field."""
    parsers = {str: flags.ArgumentParser(), int: flags.IntegerParser(), float: flags.FloatParser()}
    for kind, parser in parsers.items():
        config_flags.register_flag_parser_for_type(kind, _OrNone(parser))
    config_flags.DEFINE_config_file(
        "config",
        None,
        "Config by name, or by path as FILE.py, with a preset after a colon: hpdv2:tiny.",
        flag_values=values,
        lock_config=False,  # `FREE_FIELDS` hold names of the user's own; others are refused before
        accept_new_attributes=True,
    )
    values["config"].parser = _ConfigParser("config", lock_config=False)
    flags.mark_flag_as_required("config", flag_values=values)


def define_text(values: flags.FlagValues, name: str, help: str) -> None:
    """A flag of text that must be given."""
    flags.DEFINE_string(name, None, help, flag_values=values, required=True)


def define_processes(values: flags.FlagValues) -> None:
    """Flags by which the processes of a run find one another."""
    flags.DEFINE_string(
        "coordinator_address",
        "",
        "Host and port of process 0, where several processes run together and neither a TPU VM nor "
        "a cluster manager says so.",
        flag_values=values,
    )
    together = "How many processes run together; 1 for this one alone, on a TPU VM of several too."
    flags.DEFINE_integer("num_processes", 0, together, flag_values=values)
    flags.DEFINE_integer("process_id", -1, "Which of them this is, from 0.", flag_values=values)
    flags.DEFINE_float(
        "patience",
        processes.PATIENCE,
        "Seconds without a sign of life after which another process counts as lost.",
        lower_bound=1.0,
        upper_bound=24 * 3600.0,
        flag_values=values,
    )


def define_compilation_cache(values: flags.FlagValues) -> None:
    """The flag that says where what JAX compiles is kept."""
    flags.DEFINE_string(
        "compilation_cache",
        None,
        "Where compiled programs are kept for the next start: a folder, gs://BUCKET/FOLDER, or off "
        "for nowhere. Unset: ~/.cache/lrt_jax/compiled, or JAX_COMPILATION_CACHE_DIR, where JAX's "
        "own rules hold. 2 GB are kept, or so many bytes as JAX_COMPILATION_CACHE_MAX_SIZE says.",
        flag_values=values,
    )


def start() -> None:
    """Starts JAX, with the other processes of the run. Before it no command may touch a device."""
    compiled = _compilation_cache()
    names = ("coordinator_address", "num_processes", "process_id", "patience")
    given = {name: flags.FLAGS[name].value for name in names if name in flags.FLAGS}
    leave_out_missing_tpu()  # before JAX starts its platforms
    processes.initialize(**given)  # commands for one process alone have no such flags
    check_devices()

    from lrt_jax.storage.compilation_cache import keep_programs  # imports JAX

    keep_programs(compiled)


def _compilation_cache() -> str | None:
    """What the flag says, with the whole path of a folder."""
    given = flags.FLAGS["compilation_cache"].value if "compilation_cache" in flags.FLAGS else None
    if given in (None, "off"):
        return given
    return os.fspath(resolve_folder("compilation_cache", given))


def workdir_lock(workdir: Path) -> contextlib.AbstractContextManager[None]:
    """Keeps other runs out of a workdir, which the processes of a run share."""
    return locked(workdir) if processes.is_first() else contextlib.nullcontext()


def read_config(values: ml_collections.ConfigDict, changes: Mapping | None = None) -> Config:
    """Starts JAX, says which preset is run and why, and checks the config.

    Args:
      values: of the flag.
      changes: nested values that stand over it.

    Raises:
      ConfigError: with every problem of the config.
    """
    refuse_override("preset", f"choose it with --config=FILE:{values.get('preset')}")
    if problems := config_problems():  # before JAX starts, which on a pod takes its time
        raise ConfigError(problems)
    start()
    why = "as asked"
    if values.preset == "auto":
        import jax

        preset, why = resolve_auto(jax.default_backend())
        values = _with_overrides(preset)
    values.update(changes or {})
    _leave_out_scene_splits(values)
    log(f"preset {values.preset}: {why}")
    return parse_config(values, _problems_of_parts)


def _problems_of_parts(config: Config) -> Iterator[str]:
    """What is wrong with what a config names; all else is checked before their code is loaded."""
    from lrt_jax.data.sources import source_problems

    yield from source_problems(config)

    from lrt_jax.algorithms import algorithm_problems

    yield from algorithm_problems(config)


def check_config(values: ml_collections.ConfigDict, chips: int) -> None:
    """Checks the config as a run on TPU chips would, without a device, and says that it is good.

    Args:
      values: of the flag.
      chips: of all slices together.

    Raises:
      ConfigError: with every problem of the config.
      ValueError: the mesh does not fit so many chips.
    """
    config = config_for_tpus(values)
    axes = config.mesh
    shape = mesh_shape(axes.data, axes.fsdp, axes.tensor, axes.attn_dp, devices=chips)
    if problems := list(rows_problems(config, math.prod(shape))):
        raise ConfigError(problems)
    sizes = " x ".join(f"{axis} {size}" for axis, size in zip(AXES, shape, strict=True))
    log(f"preset {config.preset} fits {chips} chips: {sizes}")


def config_for_tpus(values: ml_collections.ConfigDict, *, data_are_read: bool = True) -> Config:
    """The config as a run on TPUs would have it, without a device.

    Args:
      values: of the flag.
      data_are_read: whether the data set must be named.

    Raises:
      ConfigError: with every problem of the config.
    """
    if values.preset == "auto":
        values = _with_overrides(resolve_auto("tpu")[0])
    if not data_are_read and values.data.path is None and values.data.source != "scenes":
        values.data.path = UNREAD
    _leave_out_scene_splits(values)
    return parse_config(values, _problems_of_parts)


def config_name() -> str:
    """Name of the config file, without folder and ending."""
    return _config_file().stem


def _config_file() -> Path:
    return config_path(config_flags.get_config_filename(flags.FLAGS["config"]).partition(":")[0])


def refuse_override(field: str, remedy: str) -> None:
    """Raises ValueError where the command line sets a config field that it must not."""
    if field in config_flags.get_override_values(flags.FLAGS["config"]):
        raise ValueError(f"--config.{field} has no effect here: {remedy}")


def _leave_out_scene_splits(values: ml_collections.ConfigDict) -> None:
    """Leaves a preset's further splits out where the data are not scenes, unless it is told."""
    by_hand = "config" in flags.FLAGS and config_flags.get_override_values(flags.FLAGS["config"])
    if "eval.others" not in (by_hand or {}):
        leave_out_scene_splits(values)


def _with_overrides(preset: str) -> ml_collections.ConfigDict:
    """The config of a preset, with what the command line sets."""
    config = runpy.run_path(str(_config_file()))["get_config"](preset)
    overrides = config_flags.get_override_values(flags.FLAGS["config"])
    config.update_from_flattened_dict(overrides)
    return config


def resolve_folder(flag: str, path: str) -> epath.Path:
    """The folder that a flag names, on this machine or in a bucket.

    Raises:
      ValueError: it is elsewhere.
    """
    if IN_A_BUCKET.fullmatch(path):
        return epath.Path(path.rstrip("/"))
    if not path or "://" in path:
        raise ValueError(f"--{flag}={path}: name a folder of this machine, or gs://BUCKET/FOLDER")
    return epath.Path(expanded(path)).absolute()
