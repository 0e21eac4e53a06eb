"""The routes of the server."""

import contextlib
import functools
from collections.abc import AsyncIterator, Callable
from importlib import resources

from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from starlette.exceptions import HTTPException

import lrt_jax
from lrt_jax.data.plain_text import shown
from lrt_jax.inference.results import Comparison
from lrt_jax.inference.reward_model import RewardModel
from lrt_jax.inference.shared_reader import BatchError
from lrt_jax.serving.body_limit import BodyLimit
from lrt_jax.serving.limits import Refused
from lrt_jax.serving.rewards import Groups
from lrt_jax.serving.schemas import (
    REWARD,
    CompareCall,
    ComputeAnswer,
    ComputeCall,
    Health,
    Problem,
    RankAnswer,
    RankCall,
    ScoreAnswer,
    ScoreCall,
)
from lrt_jax.serving.service import Service

# The page has its script and style inside, and asks nobody but this server.
PAGE_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "img-src blob: data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
PROBLEMS = {
    status: {"model": Problem, "description": what}
    for status, what in {
        400: "No text in UTF-8, nested too deep, or too many images.",
        408: "It stopped in the middle.",
        413: "Too many bytes.",
        422: "No JSON, or it cannot be used; which field, and why.",
        500: "The comparison failed.",
        503: "Not ready yet, or too many calls at the same time.",
    }.items()
}
SHOWN_PROBLEMS = 5  # of a call that has more


def make_app(
    service: Service, groups: Groups | None = None, on_failure: Callable[[], None] = lambda: None
) -> FastAPI:
    """The server as an ASGI application.

    Args:
      service: opened and closed with it.
      groups: how groups of images are rewarded.
      on_failure: called in a thread where the model cannot be opened.
    """
    groups = groups or Groups()
    limits = service.limits

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with service.opened(on_failure):
            yield

    async def admitted() -> AsyncIterator[None]:
        with service.admitted():
            yield

    app = FastAPI(
        title="lrt_jax",
        version=lrt_jax.__version__,
        summary="Which of two images people would prefer for a caption, and why.",
        docs_url=None,  # whose page would load its script from elsewhere
        redoc_url=None,
        lifespan=lifespan,
    )
    app.add_middleware(BodyLimit, limit=limits.body)
    app.exception_handler(RequestValidationError)(_invalid)
    app.exception_handler(HTTPException)(functools.partial(_http_problem, limits.body))
    app.exception_handler(Refused)(lambda _, error: _problem(error.status, error.reason))
    app.exception_handler(ValueError)(lambda _, error: _problem(422, str(error)))
    app.exception_handler(BatchError)(lambda _, error: _problem(500, str(error)))
    post = functools.partial(app.post, responses=PROBLEMS, dependencies=[Depends(admitted)])

    @app.get("/", include_in_schema=False)
    async def page() -> HTMLResponse:
        return HTMLResponse(_page(), headers={"Content-Security-Policy": PAGE_POLICY})

    @app.get("/health", responses={503: {"model": Health}})
    async def health() -> Health:
        """Whether calls are answered: 503 until the model is compiled."""
        ready = service.ready  # which another thread sets
        status = "ok" if ready else "not ready"
        answer = Health(status=status, rewards=[REWARD], votes=list(limits.votes))
        return answer if ready else JSONResponse(answer.model_dump(), 503)

    @app.get("/rewards")
    async def rewards() -> dict[str, list[str]]:
        """Names that `required_rewards` may have."""
        return {"rewards": [REWARD]}

    @post("/compare")
    async def compare(call: CompareCall) -> Comparison:
        """Which of two images people would prefer, with what probability, and why."""
        caption, votes = limits.check_caption(call.caption), limits.check_votes(call.votes)

        def question(model: RewardModel) -> Comparison:
            first, second = (limits.image_file(getattr(call, x), x) for x in ("first", "second"))
            return model.compare(caption=caption, first=first, second=second, votes=votes)

        return await service.ask(question)

    @post("/rank")
    async def rank(call: RankCall) -> RankAnswer:
        """Images of one caption, by their mean probability to win."""
        limits.check_images(len(call.images))
        caption, votes = limits.check_caption(call.caption), limits.check_votes(call.votes)
        anchors = {"method": "anchors", "anchors": call.anchors} if call.anchors else {}

        def question(model: RewardModel) -> RankAnswer:
            files = [limits.image_file(x, f"images[{i}]") for i, x in enumerate(call.images)]
            ranking = model.rank(caption=caption, images=files, votes=votes, **anchors)
            return RankAnswer.model_validate(ranking, from_attributes=True)

        return await service.ask(question)

    @post("/score")
    async def score(call: ScoreCall) -> ScoreAnswer:
        """UniRL's rewards. Requests with equal text are a group; NaN where one failed."""
        limits.check_images(len(call.requests))
        for number, request in enumerate(call.requests):
            if unknown := [x for x in request.required_rewards if x != REWARD]:
                where = f"requests.{number}.required_rewards"
                raise Refused(422, f"{where}: {unknown[0]!r} is not served, but {REWARD!r}")
        turns = [request.history[-1] for request in call.requests]
        images = {i: x.image_b64 for i, x in enumerate(turns) if x.image_b64 is not None}
        found = await groups.rewards(service, [x.text for x in turns], images)
        names = [request.required_rewards for request in call.requests]
        asked = list(zip(names, found, strict=True))
        return ScoreAnswer(
            results=[{REWARD: {REWARD: x.value}} if wanted else {} for wanted, x in asked],
            errors=[{REWARD: x.reason} if wanted and x.reason else {} for wanted, x in asked],
        )

    @post("/compute")
    async def compute(call: ComputeCall) -> ComputeAnswer:
        """Flow-Factory's rewards of a group, or of several: equal prompts are one."""
        limits.check_images(len(call.image))
        if len(call.prompt) != len(call.image):
            counts = f"{len(call.prompt)} prompts for {len(call.image)} images"
            raise Refused(422, f"prompt: {counts}; give one for each")
        found = await groups.rewards(service, call.prompt, dict(enumerate(call.image)))
        return ComputeAnswer(rewards=[x.value for x in found], reasons=[x.reason for x in found])

    return app


@functools.cache
def _page() -> str:
    return resources.files(__package__).joinpath("page.html").read_text(encoding="utf-8")


def _problem(status: int, reason: str) -> JSONResponse:
    headers = {"Retry-After": "1"} if status == 503 else None
    return JSONResponse({"detail": shown(reason)}, status, headers)


def _invalid(request: Request, error: RequestValidationError) -> JSONResponse:
    """Which fields are wrong, without what they hold, which may be megabytes."""
    problems = [f"{'.'.join(map(str, x['loc']))}: {x['msg']}" for x in error.errors()]
    more = len(problems) - SHOWN_PROBLEMS
    told = problems[:SHOWN_PROBLEMS] + ([f"and {more} more"] if more > 0 else [])
    return _problem(422, "; ".join(told))


def _http_problem(body: int, request: Request, error: HTTPException) -> JSONResponse:
    reason = f"more than {body} bytes (--max_body)" if error.status_code == 413 else error.detail
    answer = _problem(error.status_code, reason)
    answer.headers.update(error.headers or {})
    return answer
