"""The application: its endpoints, its pages, and what runs beside them."""

import asyncio
import functools
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware

import jaxdino
from jaxdino.core.errors import UserError
from jaxdino.core.rules import did_you_mean
from jaxdino.serving.server import answers, pages
from jaxdino.serving.server.answering import Answering, Watcher
from jaxdino.serving.server.catalogue import Catalogue, Served, Unknown
from jaxdino.serving.server.guard import Guard
from jaxdino.serving.server.keys import Keys
from jaxdino.serving.server.logs import log
from jaxdino.serving.server.metrics import Metrics
from jaxdino.serving.server.refusal import REASONS, Refusal
from jaxdino.serving.server.settings import ServeSettings
from jaxdino.serving.server.work import ENDPOINTS, Asked

SUMMARIES = {
    "predict": "Classes of images, with probabilities",
    "embed": "Embeddings of images",
    "segment": "Masks of images: of classes, of objects, or of what prompts name",
    "detect": "Boxes around objects",
}
Name = Annotated[str | None, Query(max_length=200, description="the model; the default is the one named first")]
Version = Annotated[str | None, Query(max_length=200, description="its version; the default is the one named last")]
Top = Annotated[int, Query(ge=1, le=10_000, description="number of classes")]
Smallest = Query(ge=0, le=1, description="smallest score of objects; smallest probability, for several labels only")
Threshold = Annotated[float | None, Smallest]
Prompts = Annotated[list[str] | None, Query(max_length=16, description="a text that names what is segmented")]


class Server:
    """Everything of one server, and its ASGI application `app`.

    Args:
      given: the loaded models. watchers: are told of each image that was answered, and closed at the end.
      compiled_first: whether the application starts only when all models are compiled, for what has no probes.
    """

    def __init__(
        self,
        given: Sequence[Served],
        settings: ServeSettings,
        keys: Keys | None = None,
        watchers: Sequence[Watcher] = (),
        metrics: Metrics | None = None,
        say: Callable[..., None] = log,
        compiled_first: bool = False,
    ):
        self.compiled_first = compiled_first
        self.settings, self.keys, self.say = settings, keys or Keys({}), say
        self.metrics = metrics or Metrics()
        self.catalogue = Catalogue(given, settings, self.metrics, say)
        self.answering = Answering(self.catalogue, settings, self.metrics, list(watchers))
        self.draining = False
        self.api = _api(self)
        self.app: Any = Guard(self.api, settings, self.keys, self.metrics, say, lambda: self.draining)
        if settings.cors:
            allowed: dict[str, Any] = {
                "allow_methods": ["GET", "POST"],
                "allow_headers": ["*"],
                "expose_headers": ["x-request-id"],
            }
            self.app = CORSMiddleware(self.app, allow_origins=list(settings.cors), **allowed)

    def drain(self) -> None:
        """Become not ready; requests are still answered."""
        self.draining = self.catalogue.ending = True
        self.metrics.ready.set(0)
        self.say("draining")

    @property
    def status(self) -> str:
        """Whether requests are taken: ok, starting or draining."""
        return "draining" if self.draining else "ok" if self.catalogue.ready else "starting"

    @asynccontextmanager
    async def running(self, _: Any) -> AsyncIterator[None]:
        """Compile the models in a thread while the server already answers probes; at the end, close everything."""
        loop = asyncio.get_running_loop()
        starting = loop.run_in_executor(None, self.catalogue.start, loop)
        starting.add_done_callback(self._started)
        if self.compiled_first:
            await starting
        watching = asyncio.create_task(self._watch()) if self.settings.watch_seconds else None
        yield
        if watching:
            watching.cancel()
        await asyncio.wait([starting])
        await loop.run_in_executor(None, self.catalogue.close)
        self.answering.close()
        for watcher in self.answering.watchers:
            getattr(watcher, "close", lambda: None)()

    def _started(self, done: Any) -> None:
        if (error := done.exception()) and not self.draining:
            self.say("not started", level="error", why=str(error))
            self.stop()

    def stop(self) -> None:
        """End the process; replaced by what runs the server."""

    async def _watch(self) -> None:
        """Reload models whose folders change."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(self.settings.watch_seconds)
            if not self.catalogue.ready:
                continue
            for one in await loop.run_in_executor(None, self.catalogue.changed):
                try:
                    await loop.run_in_executor(None, self.catalogue.reload, *one.label)
                except UserError:
                    continue  # it is logged and counted there; the model before is still served


def _api(server: Server) -> FastAPI:
    api = FastAPI(
        title="jaxdino",
        version=jaxdino.__version__,
        description="Models behind HTTP. Images are sent as a form with a part `images` each, or one as the body.",
        lifespan=server.running,
        docs_url=None,  # FastAPI's own page loads scripts from elsewhere
        redoc_url=None,
    )
    _add_errors(api)
    for endpoint in dict.fromkeys(name for one in server.catalogue.served.values() for name in one.works):
        _add_endpoint(api, server, endpoint)
    _add_models(api, server)
    _add_health(api, server)
    pages.add(api, server.settings)
    return api


def _add_errors(api: FastAPI) -> None:
    @api.exception_handler(Refusal)
    async def refused(request: Request, err: Refusal) -> Response:
        request.state.log["reason"] = err.reason
        return _json(err.body(), err.status, err.headers)

    @api.exception_handler(RequestValidationError)
    async def invalid(request: Request, err: RequestValidationError) -> Response:
        wrong = [f"{'.'.join(map(str, one['loc'][1:]))}: {one['msg']}" for one in err.errors()[:5]]
        return await refused(request, Refusal(422, "bad_parameter", "; ".join(wrong)[:1000], close=True))

    @api.exception_handler(HTTPException)
    async def other(request: Request, err: HTTPException) -> Response:
        known = {404: "there is no such page; GET /docs lists them", 405: "this page takes another method: see /docs"}
        reason = {404: "not_found", 405: "wrong_method"}.get(err.status_code, "http")
        found = await refused(request, Refusal(err.status_code, reason, known.get(err.status_code, str(err.detail))))
        found.headers.update(err.headers or {})
        return found

    @api.exception_handler(Exception)
    async def broken(request: Request, err: Exception) -> Response:
        message = f"an error of the server; its log has {request.state.request_id}"
        return await refused(request, Refusal(500, "error", message))


def _json(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(answers.as_bytes(value), status, dict(headers or {}), "application/json")


def _add_endpoint(api: FastAPI, server: Server, endpoint: str) -> None:
    """Add one of `ENDPOINTS`, with the parameters that it takes."""
    if endpoint not in ENDPOINTS:
        raise KeyError(endpoint)
    refusals = answers.refusals(400, 401, 404, 408, 413, 415, 422, 429, 503)
    if server.settings.allow_url:
        refusals |= answers.refusals(403)
    how: dict[str, Any] = {
        "summary": SUMMARIES[endpoint],
        "response_class": Response,
        "responses": {200: {"model": answers.FORMS[endpoint]}, **refusals},
        "openapi_extra": answers.body(bool(server.settings.allow_url)),
        "operation_id": endpoint,
    }
    answer = functools.partial(_answered, server, endpoint)

    post = api.post(f"/{endpoint}", **how)

    if endpoint == "predict":

        @post
        async def predict(
            request: Request, model: Name = None, version: Version = None, top: Top = 5, threshold: Threshold = None
        ) -> Response:
            return await answer(request, model, version, Asked(top=top, threshold=threshold))

    elif endpoint == "detect":

        @post
        async def detect(
            request: Request, model: Name = None, version: Version = None, threshold: Threshold = None
        ) -> Response:
            return await answer(request, model, version, Asked(threshold=threshold))

    elif endpoint == "segment":

        @post
        async def segment(
            request: Request,
            model: Name = None,
            version: Version = None,
            prompt: Prompts = None,
            threshold: Threshold = None,
        ) -> Response:
            return await answer(request, model, version, Asked(prompts=tuple(prompt or ()), threshold=threshold))

    else:

        @post
        async def embed(request: Request, model: Name = None, version: Version = None) -> Response:
            return await answer(request, model, version, Asked())


async def _answered(
    server: Server, endpoint: str, request: Request, model: str | None, version: str | None, asked: Asked
) -> Response:
    known = [one.alias for one in request.scope["route"].dependant.query_params]
    for name in request.query_params:
        if name not in known:
            message = f"{name[:100]!r} is not a parameter of {endpoint}; {did_you_mean(name[:100], known)}"
            raise Refusal(422, "bad_parameter", message, close=True)
    return _json(await server.answering.answer(request, endpoint, model, version, asked))


def _add_models(api: FastAPI, server: Server) -> None:
    @api.get(
        "/models",
        summary="The models that are served",
        responses={200: {"model": answers.Models}, **answers.refusals(401)},
    )
    async def models() -> Response:
        return _json({"models": server.catalogue.listed()})

    @api.post(
        "/models/{name}/reload",
        summary="Load a model again from its folder; a key with `admin` is needed",
        responses={200: {"model": answers.Models}, **answers.refusals(401, 403, 404, 409, 422, 429, 503)},
    )
    async def reload(request: Request, name: str, version: Version = None) -> Response:
        if not server.keys:
            raise Refusal(403, "no_keys", "this server has no API keys, so nobody may reload: start it with --api_keys")
        if not request.state.client.admin:
            raise Refusal(403, "no_admin", "this API key may predict, not reload: its line in the file lacks `admin`")
        if not server.catalogue.ready:
            raise Refusal(503, "busy", "the models are still being compiled: try again", retry=1)
        try:
            server.catalogue.find(name, version)
            await asyncio.get_running_loop().run_in_executor(None, server.catalogue.reload, name, version)
        except Unknown as err:
            raise Refusal(404, "unknown_model", str(err)) from None
        except UserError as err:
            raise Refusal(409, "not_reloaded", str(err)) from None
        return _json({"models": server.catalogue.listed()})


def _add_health(api: FastAPI, server: Server) -> None:
    health = {"response_class": Response, "tags": ["health"]}

    @api.get("/health/live", summary="Whether the process runs", responses={200: {"model": answers.Health}}, **health)
    async def live() -> Response:
        return _json({"status": server.status})

    async def ready() -> Response:
        return _json({"status": server.status}, 200 if server.status == "ok" else 503)

    for path in ("/health/ready", "/health"):
        api.get(
            path,
            summary="Whether requests are taken",
            operation_id=path.strip("/").replace("/", "_"),
            responses={200: {"model": answers.Health}, 503: {"model": answers.Health, "description": REASONS[503]}},
            **health,
        )(ready)

    @api.get("/metrics", summary="Measurements for Prometheus", response_class=Response, tags=["health"])
    async def metrics() -> Response:
        text = await asyncio.get_running_loop().run_in_executor(None, server.metrics.text)
        return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")
