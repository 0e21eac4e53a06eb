"""The model card of an exported policy: what it is, what was measured, and how to ask it."""

import contextlib
import dataclasses
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import yaml
from huggingface_hub import EvalResult, ModelCardData

from lrt_jax.assets import BUILT_IN, KNOWN_SOURCE
from lrt_jax.config import Config, PromptOptions
from lrt_jax.config.earlier import present_form
from lrt_jax.data.input.patches import bar_colour
from lrt_jax.data.input.prompts import messages
from lrt_jax.data.plain_text import as_code, in_markdown
from lrt_jax.data.sources import SOURCES, Source
from lrt_jax.models import CARD, LICENCES, read_config
from lrt_jax.reporting.results import (
    FEW_PAIRS,
    MARK,
    ROWS,
    figure,
    paired_judgements,
    result_sections,
)

METADATA = re.compile(r"\s*---[ \t]*\n(.*?)\n---[ \t]*(?:\n|$)", re.DOTALL)  # of a card
FIELD = re.compile(r"^(?=[^\s#-])", re.MULTILINE)  # where one begins in a card's metadata
LICENCE = ("license", "license_name", "license_link")
OF_ORIGIN = (*LICENCE, "base_model")  # all that is read of it
TASK = "image-text-to-text"
UNKNOWN = "unknown"  # the Hub's own word for a licence that nobody states
PAPER = (
    "[Listener-Rewarded Thinking in VLMs for Image Preferences](https://arxiv.org/abs/2506.22832)"
)
STYLES = {
    "judge": "it reads the reasoning, without its answer, as another judge's, and answers itself",
    "continue": "it takes the reasoning, without its answer, for its own thought, and answers",
}
SCORES = ROWS[:3]  # of the metadata: accuracies
MARKED = (
    f" A change marked {MARK} is over the {{}} predictions that have a value both times, as an "
    "answer that cannot be read has none; before and after are over all of theirs."
)


@dataclasses.dataclass(frozen=True)
class Method:
    """What a card calls the way in which a model was trained.

    Attributes:
      name: short.
      title: a phrase, to follow "by".
      tags: for the Hub's search.
      rewarded: whether completions were rewarded, and not given.
    """

    name: str
    title: str
    tags: tuple[str, ...]
    rewarded: bool = True


def model_card(
    config: Config,
    settings: Mapping,
    source: Path,
    *,
    method: Method,
    step: int,
    results: Mapping | None,
) -> str:
    """The text of a `README.md`, with metadata as the Hub reads them.

    Args:
      config: of the run.
      settings: what `lrt_jax.json` holds.
      source: folder that the policy started from; its card or licence file states the licence.
      method: of training.
      step: after which the policy is exported.
      results: as `results.json`, of this step; None where it was not evaluated.
    """
    trained_from = present_form(settings["trained_from"], "model")
    settings, origin = {**settings, "trained_from": trained_from}, _source_metadata(source)
    name = f"{trained_from['model']}, {method.name} on {_sources(config)}"
    metadata = _metadata(config, settings, origin, name, method, results)
    sections = {
        "How it was trained": _training(config, settings, method, step),
        "How good it is": _figures(config, results),
        "Limits": "\n".join(f"* {limit}" for limit in _limits(config, settings, results)),
        "What it is asked": _prompts(config, settings),
        "How to ask it": _usage(config, settings, source),
        "Licence": _licence_text(config, settings, origin),
    }
    body = "\n\n".join(f"## {title}\n\n{text}" for title, text in sections.items())
    return f"---\n{metadata.to_yaml()}\n---\n# {in_markdown(name)}\n\n{INTRODUCTION}\n\n{body}\n"


INTRODUCTION = """A reasoner about image preferences: shown a caption and two images, it thinks
inside `<think></think>` and gives the number of the image that people prefer inside
`<answer></answer>`."""


# ---------------------------------------------------------------------------- metadata


def _metadata(
    config: Config,
    settings: Mapping,
    origin: ModelCardData,
    name: str,
    method: Method,
    results: Mapping | None,
) -> ModelCardData:
    trained_from = settings["trained_from"]
    known = "/" in trained_from["model"]  # a name of the Hub, and no folder's
    base = trained_from["model"] if known else getattr(origin, "base_model", None)
    return ModelCardData(
        **_licence(origin),
        library_name="transformers",
        pipeline_tag=TASK,
        base_model=None if trained_from["from_scratch"] else base,
        datasets=[id for data_set in _data_sets(config) if (id := _known(data_set.source).hub_id)]
        or None,
        tags=["reward-model", "image-preference", *method.tags, "arxiv:2506.22832"],
        model_name=name,
        eval_results=list(_scores(config, results)) or None,
    )


def _scores(config: Config, results: Mapping | None) -> Iterator[EvalResult]:
    after = results["after"] if results else {}
    evaluated = [data_set.source for data_set in config.data_sets]
    published = _known(evaluated[0]).hub_id if len(evaluated) == 1 else None
    for title, field in SCORES:
        if after.get(field) is not None:
            yield EvalResult(
                task_type=TASK,
                dataset_type=published or "+".join(evaluated),
                dataset_name=f"{' and '.join(evaluated)}, as prepared by lrt_jax",
                dataset_split=results["split"],
                metric_type="accuracy",
                metric_name=title,
                metric_value=round(after[field], 4),
            )


def _source_metadata(source: Path) -> ModelCardData:
    """What the card of a folder says of it; a licence file counts where the card says nothing."""
    card = source / CARD
    block = METADATA.match(_text_of(card)) if card.is_file() else None
    stated = {name: _stated(block[1], name) for name in OF_ORIGIN} if block else {}
    found = ModelCardData(**stated)
    if found.license is None and (file := licence_file(source)):
        found.license, found.license_link = "other", file.name
    return found


def _text_of(path: Path) -> str:
    """UTF-8 where it is that; any bytes are some text in Latin-1."""
    content = path.read_bytes()
    with contextlib.suppress(UnicodeDecodeError):
        return content.decode("utf-8-sig").replace("\r\n", "\n")
    return content.decode("latin-1").replace("\r\n", "\n")


def _stated(block: str, name: str) -> str | list | None:
    """A field of a card's metadata, read apart from the others, whose faults are not its own."""
    for part in FIELD.split(block):
        if re.match(rf"['\"]?{name}['\"]?\s*:", part):
            # A TypeError is of a line that is no field; what cannot be read is not stated.
            with contextlib.suppress(ValueError, TypeError, RecursionError, yaml.YAMLError):
                value = yaml.safe_load(part)[name]
                return value if isinstance(value, str | list) else None
    return None


def licence_file(source: Path) -> Path | None:
    """The file beside a model that holds its licence, which goes wherever the model goes."""
    return next((source / name for name in LICENCES if (source / name).is_file()), None)


def _licence(origin: ModelCardData) -> dict[str, str | None]:
    stated = {name: getattr(origin, name, None) for name in LICENCE}
    return stated | {"license": origin.license or UNKNOWN}


# ---------------------------------------------------------------------------- sections


def _data_sets(config: Config) -> list:
    """The data sets that are trained on."""
    return [data_set for data_set in config.data_sets if data_set.share]


def _sources(config: Config) -> str:
    return " and ".join(data_set.source for data_set in _data_sets(config))


def _known(name: str) -> Source:
    """What is known of a data set; of somebody's own, whose code is not run here, it is little."""
    return SOURCES.get(name, dataclasses.replace(SOURCES["folder"], name=name))


def _training(config: Config, settings: Mapping, method: Method, step: int) -> str:
    start = as_code(settings["trained_from"]["model"])
    if settings["trained_from"]["from_scratch"]:
        start = f"fresh weights in the sizes of {start}"
    data = settings["data"]
    ties = ", ties left out" if config.data.target == "hard" else ""
    lines = [
        f"From {start}, with lrt_jax {settings['lrt_jax']}, by {method.title}.",
        "",
        f"* **Data**: {data['train_pairs']:,} pairs of the split `{data['train_split']}`{ties}, of",
        *(f"    * {_data_set(data_set)}" for data_set in _data_sets(config)),
        f"* **Amount**: {step:,} steps of {config.batch_size} pairs x {config.group_size} "
        f"completions, seed {config.seed}",
        f"* **Optimizer**: {config.optimizer.name}, learning rate "
        f"{config.optimizer.learning_rate:g}, {config.optimizer.schedule}",
    ]
    if config.model.freeze:
        frozen = ", ".join(f"`{pattern}`" for pattern in config.model.freeze)
        lines.append(f"* **Not trained**: parameters named {frozen}")
    if method.rewarded:
        terms = ", ".join(f"{in_markdown(name)} {x:g}" for name, x in config.reward_weights.items())
        lines.append(f"* **Reward**, by weight: {terms}; KL term {config.loss.beta:g}")
    return "\n".join([*lines, *_listeners(config, settings)])


def _data_set(data_set) -> str:
    published = _known(data_set.source)
    if published.hub_id is None:
        return f"{as_code(data_set.source)}: {published.about}"
    link = f"[{published.hub_id}](https://huggingface.co/datasets/{published.hub_id})"
    # Not *from* there: what was read may be a copy, or a part.
    return f"{as_code(data_set.source)}: published as {link}, {published.licence}"


def _listeners(config: Config, settings: Mapping) -> Iterator[str]:
    if not config.uses_listener:
        yield "* **Listener**: none had a part in training"
    for x in settings["listeners"] if config.uses_listener else ():
        yield (
            f"* **Listener**: {as_code(x['model'])}, frozen, style `{x['style']}`: "
            f"{STYLES[x['style']]}. "
            f"Its share in the listener's term, of weight {config.listener.weight:g}, is "
            f"{x['share']:g}"
        )
    if held_out := settings.get("held_out_listener"):
        yield (
            f"* **Held-out listener**: {as_code(held_out['model'])}, style `{held_out['style']}`, "
            "asked in evaluations alone"
        )


def _figures(config: Config, results: Mapping | None) -> str:
    if results is None:
        return "The checkpoint of this step was not evaluated."
    main, *others = result_sections(results)
    rows = [f"| {' | '.join(row)} |" for row in main.rows]
    for section in others:
        rows.append(f"| **{section.pairs:,} pairs of the split `{section.split}`** | | | |")
        rows += [f"| {' | '.join(row)} |" for row in section.rows]
    return "\n".join(
        [
            f"On {main.pairs:,} pairs of the split `{results['split']}` of "
            f"{' and '.join(x.source for x in config.data_sets)}, each in both orders, "
            f"sampled at temperature {config.temperature:g} or greedily, before and after "
            "training. In brackets: 95 % intervals, by a bootstrap over captions; changes are "
            "paired. Human ties are left out of accuracy, answers that cannot be read are wrong."
            + (MARKED.format(paired) if (paired := paired_judgements(results)) else ""),
            "",
            "| | before | after | change |",
            "|---|---|---|---|",
            *rows,
        ]
    )


def _limits(config: Config, settings: Mapping, results: Mapping | None) -> Iterator[str]:
    if results is None:
        yield "Nothing was measured at this step: take no figure of another step for it."
    else:
        yield from _measured_limits(config, settings, results)
    trained_from = settings["trained_from"]
    others = [x.source for x in config.data_sets if x.source != KNOWN_SOURCE]
    if trained_from["model"] in BUILT_IN and not trained_from["from_scratch"] and others:
        yield (
            "It comes from lrt_jax's built-in model, of less than a million parameters, which "
            "knows drawn shapes only: of the pictures of "
            f"{' and '.join(others)} it understands nothing, and what it says of them shows that "
            "programs run."
        )
    if any(data_set.source == "scenes" for data_set in _data_sets(config)):
        yield "It was trained on drawn scenes: of other pictures it may know nothing."
    yield (
        "Preferences are those of the people who made the data. Where the images of a pair come "
        "from different generators, recognising the generator can stand in for judging the images; "
        "no figure here tells the two apart."
    )
    yield "Reasoning that convinces need not be true, nor the cause of the answer that follows it."


def _measured_limits(config: Config, settings: Mapping, results: Mapping) -> Iterator[str]:
    after = results["after"]
    if after["pairs"] < FEW_PAIRS:
        yield f"Only {after['pairs']} pairs were evaluated: no figure here tells models apart."
    names = [f"`{split}`" for split in (results["split"], *results.get("splits", {}))]
    which = f"the splits {', '.join(names)}" if len(names) > 1 else f"one split, {names[0]}"
    yield (
        f"Measured on {which}, in one run with one seed. The intervals say how figures vary with "
        "captions, not how they vary from run to run."
    )
    if after["first_position_rate"] is not None:
        yield (
            f"Position: it chose the image shown first in {figure(after, 'first_position_rate')} "
            "of its readable samples; one half is right, since each pair is shown in both orders. "
            "Ask in both orders and take the mean."
        )
    unread = f"{after['unparsed']:,} of {2 * after['pairs']:,} samples had no readable answer"
    cut = f"{100 * after['truncated']:.1f} % were cut at {config.max_completion_length} tokens"
    yield f"{unread}; {cut}."
    if config.uses_listener:
        yield (
            "Confidence and contradiction are the judgement of the listeners that training "
            "rewarded it for convincing, and not an outsider's"
            + ("; the held-out rows are one's." if "held_out_listener" in settings else ".")
        )


def _prompts(config: Config, settings: Mapping) -> str:
    prompt, images, sampling = settings["prompt"], settings["images"], settings["sampling"]
    asked = _quoted(config, prompt["style"], prompt)
    shown = f"One user turn in the checkpoint's own chat template:\n\n{asked}"
    if any(x["style"] == "judge" for x in settings["listeners"]):
        shown += f"\n\nand to a listener of style `judge`:\n\n{_quoted(config, 'judge', prompt)}"
    one_size = "; both images of a pair are brought to one size, between bars if need be"
    grid = one_size if images["one_grid"] else ""
    whose = "lrt_jax's" if config.prompts == PromptOptions() else "the run's"
    return (
        f"{shown}\n\nThe wording is {whose} own. An image has {images['min_pixels']:,} to "
        f"{images['max_pixels']:,} pixels{grid}. A completion has at most "
        f"{sampling['max_completion_length']} tokens, sampled at temperature "
        f"{sampling['temperature']:g} with top_p {sampling['top_p']:g}. `lrt_jax.json` holds all "
        "of this for programs."
    )


def _quoted(config: Config, style: str, prompt: Mapping) -> str:
    criterion = prompt.get("criterion", "overall")  # older settings have none
    parts = messages("{caption}", style, "{reasoning}\n", criterion, config.prompts)[0]["content"]
    text = "".join(part.get("text", "<image>") for part in parts)
    return f"```text\n{text}\n```"


def _usage(config: Config, settings: Mapping, source: Path) -> str:
    images, criterion = settings["images"], settings["prompt"].get("criterion", "overall")
    asked = messages("{caption}", "reason", criterion=criterion, options=config.prompts)
    lines = "".join(f"    {json.dumps(part)},\n" for part in asked[0]["content"])
    bars = bar_colour(read_config(source).vision)
    return USAGE.format(
        content=f"[\n{lines}]",
        one_size=ONE_SIZE.format(bars=bars) if images["one_grid"] else "",
        twice=TWICE if images["one_grid"] else "",
        tokens=settings["sampling"]["max_completion_length"],
    )


ONE_SIZE = """from PIL import ImageOps

size = tuple(round((a * b) ** 0.5) for a, b in zip(images[0].size, images[1].size))
# As in training: of another shape than that size, an image keeps its own, between bars.
images = [ImageOps.pad(image, size, Image.Resampling.BICUBIC, {bars}) for image in images]
"""
TWICE = """Images of different sizes are resized twice here and once in training, so that pixels may
differ a little. """
USAGE = """With transformers 5.20 or newer and torchvision; this answers greedily:

```python
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

folder = "."  # of this model, or its name on the Hub
caption, files = "a red circle above a blue cross", ["first.png", "second.png"]

content = {content}
content[-1]["text"] = content[-1]["text"].replace("{{caption}}", caption)
images = [Image.open(file).convert("RGB") for file in files]
{one_size}model = AutoModelForImageTextToText.from_pretrained(folder)
processor = AutoProcessor.from_pretrained(folder)
text = processor.apply_chat_template(
    [{{"role": "user", "content": content}}], tokenize=False, add_generation_prompt=True
)
inputs = processor(text=[text], images=images, return_tensors="pt").to(model.device)
output = model.generate(
    **inputs, max_new_tokens={tokens}, do_sample=False, repetition_penalty=1.0
)
answer = processor.batch_decode(
    output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True
)[0]
print(answer)
```

{twice}Tensors are named, and `config.json` is laid out, as in the checkpoint that
this comes from."""


def _licence_text(config: Config, settings: Mapping, origin: ModelCardData) -> str:
    model = settings["trained_from"]["model"]
    licence = getattr(origin, "license_name", None) or origin.license
    stated = f"{as_code(model)}, which this comes from, "
    if licence:
        stated += f"is under the licence: {licence}"
        stated += f" ({origin.license_link})." if origin.license_link else "."
    else:
        stated += "states no licence that can be read: ask its authors."
    sources = [data_set.source for data_set in _data_sets(config)]
    data = "; ".join(f"{in_markdown(x)}: {_known(x).licence or UNKNOWN}" for x in sources)
    return f"{stated} Licences of the data, as published: {data}."
