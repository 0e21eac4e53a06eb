"""Exports a checkpoint of a run as a Hugging Face folder, and puts it on the Hub if asked.

    lrt export --checkpoint=RUN --output=FOLDER
    lrt export --checkpoint=RUN --output=FOLDER --step=40 --dtype=bfloat16
    lrt export --checkpoint=RUN --output=FOLDER --push_to_hub=OWNER/NAME

A finished run has exported its last checkpoint to RUN/export already.
"""

import tempfile
from pathlib import Path
from typing import get_args

from absl import flags

from lrt_jax.cli import commands
from lrt_jax.config.choices import Dtype
from lrt_jax.parallel import processes
from lrt_jax.storage.bucket import Bucket, is_address


def define_flags(values: flags.FlagValues) -> None:
    """Defines this command's flags."""
    commands.define_text(values, "checkpoint", "Folder of the run, or gs://BUCKET/FOLDER.")
    commands.define_text(
        values,
        "output",
        "Folder to write, or gs://BUCKET/FOLDER; an earlier export that is there is replaced.",
    )
    commands.define_processes(values)
    commands.define_compilation_cache(values)
    flags.DEFINE_integer("step", 0, "Which checkpoint; 0 for the last.", flag_values=values)
    flags.DEFINE_enum(
        "dtype",
        None,
        list(get_args(Dtype)),
        "Of all tensors. Unset: each has that of the model which the run started from.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "push_to_hub",
        None,
        "Repository of the Hugging Face Hub to put the model into, OWNER/NAME; made where there is "
        "none. The token is that of `hf auth login`, or HF_TOKEN.",
        flag_values=values,
    )
    flags.DEFINE_bool(
        "public", False, "Whether everybody may see that repository.", flag_values=values
    )


def main(values: flags.FlagValues) -> None:
    """Runs the command with flags that are parsed."""
    if values.public and values.push_to_hub is None:
        raise ValueError("--public: nothing is put on the Hub; add --push_to_hub=OWNER/NAME")
    if values.push_to_hub is not None and is_address(values.output):
        raise ValueError("--push_to_hub: give a folder of this machine as --output")
    workdir = commands.resolve_folder("checkpoint", values.checkpoint)
    output = commands.resolve_folder("output", values.output)
    # A bucket that may not be read has no folders, says etils; ours says why.
    if not (Bucket(values.checkpoint).files() if is_address(workdir) else workdir.is_dir()):
        raise FileNotFoundError(f"--checkpoint={workdir}: no such folder; name the folder of a run")
    commands.start()
    if not is_address(workdir):
        processes.check_shared(Path(workdir))

    from lrt_jax.models import check_replaceable, replace_in_bucket
    from lrt_jax.training import hub
    from lrt_jax.training.export import export_checkpoint

    if processes.is_first():  # before a repository is made
        check_replaceable(output)
    pushes = values.push_to_hub is not None and processes.is_first()
    repo = hub.open_repo(values.push_to_hub, public=values.public) if pushes else None
    with tempfile.TemporaryDirectory() as here:
        folder = Path(here) / "model" if is_address(output) else Path(output)
        step = export_checkpoint(workdir, folder, step=values.step, dtype=values.dtype)
        if is_address(output) and processes.is_first():
            replace_in_bucket(Bucket(values.output), folder)
        commands.log(f"model of step {step}: {output}")
        if repo:
            commands.log(f"on the Hub: {hub.upload(folder, repo, f'Step {step}')}")


if __name__ == "__main__":
    commands.run(main, define_flags)
