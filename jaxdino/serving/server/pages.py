"""The pages of the server: to try a model in the browser, and the endpoints; they load nothing from elsewhere."""

import base64
import hashlib
import re
from importlib.resources import files
from typing import Any

from fastapi import FastAPI
from fastapi.responses import HTMLResponse, Response

from jaxdino.core.page import render
from jaxdino.serving.server.settings import ServeSettings

PAGES = files("jaxdino") / "assets" / "pages"
INLINE = re.compile(r"<(script|style)>(.*?)</\1>", re.DOTALL)


def policy(page: str) -> str:
    """Return the Content-Security-Policy of a page: its own script and styles, and this server, nothing else."""
    found: dict[str, list[str]] = {"script": [], "style": []}
    for kind, text in INLINE.findall(page):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        found[kind].append(f"'sha256-{digest}'")
    sources = {f"{kind}-src": " ".join(found[kind]) or "'none'" for kind in found}
    sources |= {"default-src": "'none'", "connect-src": "'self'", "img-src": "'self' blob: data:", "base-uri": "'none'"}
    sources |= {"form-action": "'none'", "frame-ancestors": "'none'"}
    return "; ".join(f"{name} {value}" for name, value in sources.items())


def operations(document: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what the page of the endpoints shows of an OpenAPI document."""
    found = []
    for path, methods in document["paths"].items():
        for method, one in methods.items():
            found.append(
                {
                    "method": method.upper(),
                    "path": path,
                    "summary": one.get("summary", ""),
                    "parameters": [(p["name"], p["in"], p.get("description", "")) for p in one.get("parameters", [])],
                    "body": list(one.get("requestBody", {}).get("content", {})),
                    "answers": {status: answer["description"] for status, answer in one["responses"].items()},
                }
            )
    return found


def add(api: FastAPI, settings: ServeSettings) -> None:
    """Add the pages."""
    page = (PAGES / "serve.html").read_text().replace("/* style.css */", (PAGES / "style.css").read_text())

    def answer(text: str) -> HTMLResponse:
        headers = {"Content-Security-Policy": policy(text), "Referrer-Policy": "no-referrer"}
        return HTMLResponse(text, headers=headers)

    @api.get("/", include_in_schema=False)
    async def index() -> HTMLResponse:
        return answer(page)

    @api.get("/favicon.ico", include_in_schema=False)
    async def icon() -> Response:
        return Response(status_code=204)

    @api.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        text = render("endpoints.html", operations=operations(api.openapi()), limit=settings.max_body_mb)
        return answer(text)
