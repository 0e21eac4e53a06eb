"""Flags and configs that cannot be run."""

from lrt_jax.algorithms import algorithm_problems
from lrt_jax.cli.commands import config_flag_problems
from lrt_jax.config import default_config, parse_config
from tests.bad_input.registry import kind

FLAGS = "Flags and configs"


def flag(title: str, *arguments: str):
    def case(_):
        raise ValueError("; ".join(line for _, line in config_flag_problems(arguments)))

    kind(FLAGS, title)(case)


flag("a config file that is not there", "--config=configs/imagreward.py")
flag("a name of no config", "--config=imagreward:tiny")
flag("a field that there is not", "--config.optimizer.learningrate=1e-3")
flag("an earlier name of a field", "--config.loss.sampler_cap=2")
flag("a word for a number", "--config.steps=many")


def config(title: str, **changes):
    def case(_):
        values = default_config()
        values.data.path = "data"
        values = values.to_dict()
        for name, value in changes.items():
            *parents, field = name.split(".")
            part = values
            for parent in parents:
                part = part[parent]
            part[field] = value
        parse_config(values, algorithm_problems)

    kind(FLAGS, title)(case)


config("a field of another type", steps="100")
config("a name that is none of those known", **{"algorithm": "ppo"})
config("several at once", **{"steps": 0, "loss.type": "dpo", "batch_sise": 4})
config("no data", **{"data.path": None})
config("a group of one", group_size=1)
config("no reward", **{"rewards.format": 0.0, "rewards.accuracy": 0.0, "listener.weight": 0.0})
config("a listener's weight that nothing asks for", algorithm="grpo", **{"listener.weight": 0.7})
config("microbatches that do not divide", **{"batch_size": 10, "loss.microbatches": 4})
config("a batch that does not divide over the mesh", **{"mesh.fsdp": 12})
config("an odd evaluation batch", **{"eval.batch_size": 5})
config("no place for words", **{"data.prompt_tokens": 512})
config("patches that make no window", **{"data.max_patches": 1000})
config("shares that are not one", **{"data.split_fractions": {"train": 0.9, "test": 0.2}})
config("a split that is trained on and evaluated", **{"eval.split": "train"})
config("a further split that is trained on", **{"eval.others": ("train",)})
config("training on all splits", **{"data.train_split": "all"})
config("a learning rate that is no number", **{"optimizer.learning_rate": float("nan")})
config("more steps than can be counted", **{"optimizer.warmup_steps": 10**12})
config("parameters that cannot keep what they learn", **{"model.param_dtype": "bfloat16"})
config("a pattern that is none", **{"model.freeze": ("[",)})
config("cispo without its cap", **{"loss.type": "cispo"})
config("samples in int8 that nothing weights", **{"sampling.weights": "int8"})
config("a prompt with other braces", **{"prompts.question": "Which {caption}?"})
config("nothing to imitate", **{"algorithm": "sft"})
config("weights from scratch and GRPO", **{"model.from_scratch": True})
config(
    "more captions than can be drawn",
    **{"data.source": "scenes", "data.path": None, "data.scenes.test": 9999},
)
