"""TRL's side of `benchmarks.trl_parity`: its own loss code on given log-probabilities.

Needs torch and TRL, and nothing of `lrt_jax`. Reads `cases.json` and `arrays.npz` from a folder,
runs `GRPOTrainer._compute_loss` on a trainer whose model is replaced by the given
log-probabilities, and leaves losses, gradients and advantages in `answers.npz` beside them.
"""

import argparse
import collections
import json
import pathlib
import types

import numpy as np
import torch
import trl
from trl.trainer.grpo_trainer import GRPOTrainer
from trl.trainer.utils import nanstd


class Shell(GRPOTrainer):
    """A trainer that has what the loss reads, and no model, data or optimizer."""

    def __init__(self, options: dict, steps: int):
        self.args = types.SimpleNamespace(
            delta=options["delta"], use_bias_correction_kl=False, steps_per_generation=steps
        )
        high = options["epsilon_high"]
        self.epsilon_low = options["epsilon"]
        self.epsilon_high = options["epsilon"] if high is None else high
        self.loss_type, self.beta = options["loss_type"], options["beta"]
        self.importance_sampling_level = options["importance_sampling_level"]
        self.max_completion_length = options["max_completion_length"]
        self.current_gradient_accumulation_steps = steps
        self.use_vllm = self.vllm_importance_sampling_correction = options["sampler_ratio"]
        self.top_entropy_quantile, self.off_policy_mask_threshold = 1.0, None
        self.aux_loss_enabled = self._entropy_bonus_enabled = False
        self.model = types.SimpleNamespace(training=True)
        self.accelerator = types.SimpleNamespace(
            num_processes=1, gather=lambda x: x, reduce=lambda x, reduction: x
        )
        self._metrics = {"train": collections.defaultdict(list)}

    def _get_per_token_logps_and_entropies(self, model, *args, **kwargs):
        return model, torch.zeros_like(model), None


def answer(case: dict, arrays: dict[str, torch.Tensor]) -> tuple[np.ndarray, np.ndarray]:
    """(loss, gradient [N, T]) summed over microbatches, as gradient accumulation does."""
    new = arrays["new_logps"].clone().requires_grad_()
    trainer = Shell(case, case["microbatches"])
    total = torch.zeros(())
    for rows in torch.arange(len(new)).chunk(case["microbatches"]):
        total = total + trainer._compute_loss(new[rows], inputs(case, arrays, rows))
    total.backward()
    return total.detach().numpy(), new.grad.numpy()


def inputs(case: dict, arrays: dict[str, torch.Tensor], rows: torch.Tensor) -> dict:
    mask = arrays["mask"]
    empty = torch.zeros(len(rows), 0)
    batch = {
        "prompt_ids": empty,
        "prompt_mask": empty,
        "completion_ids": mask[rows],
        "completion_mask": mask[rows],
        "advantages": arrays["advantages"][rows],
        "ref_per_token_logps": arrays["ref_logps"][rows],
        "importance_sampling_ratio": arrays["sampler_ratio"][rows],
        "num_items_in_batch": mask.sum(),
    }
    return batch | ({} if case["on_policy"] else {"old_per_token_logps": arrays["old_logps"][rows]})


def group_advantages(rewards: torch.Tensor, scale: str) -> np.ndarray:
    """TRL's formula (it stands inside a function too large to call), with TRL's own deviation."""
    centred = rewards - torch.nanmean(rewards, dim=1, keepdim=True)
    std = nanstd(rewards, dim=1)[:, None]
    return (centred / (std + 1e-4) if scale == "group" else centred).numpy()


def main(folder: pathlib.Path) -> None:
    with np.load(folder / "arrays.npz") as stored:
        arrays = {name: torch.from_numpy(values) for name, values in stored.items()}
    answers = {"versions": np.array([trl.__version__, torch.__version__])}
    for i, case in enumerate(json.loads((folder / "cases.json").read_text())):
        batch = {k.partition("/")[2]: v for k, v in arrays.items() if k.startswith(case["batch"])}
        answers[f"loss/{i}"], answers[f"gradient/{i}"] = answer(case, batch)
    for scale in ("group", "none"):
        answers[f"advantages/{scale}"] = group_advantages(arrays["rewards"], scale)
    np.savez(folder / "answers.npz", **answers)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=pathlib.Path)
    main(parser.parse_args().folder)
