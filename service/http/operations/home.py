"""``GET /``: a small static page that says what this is and where to look."""

import html

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from service.excerpts import excerpt
from service.http.dependencies import FrontDep

router = APIRouter(include_in_schema=False)

PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>nestling</title>
<style>
  :root { color-scheme: light dark; font-family: system-ui, sans-serif; }
  body { max-width: 34rem; margin: 4rem auto; padding: 0 1rem; line-height: 1.6; }
  pre { overflow-x: auto; padding: 1rem; border: 1px solid #8884; border-radius: .5rem; }
</style>
<h1>nestling</h1>
<p>A small language model, served while it learns.</p>
<pre>curl -N {base}generate -H 'content-type: application/json' \\
  -d '{"prompt": "First Citizen:", "stream": true}'</pre>
<ul>
{playground}  <li><a href="/docs">API</a></li>
  <li><a href="/checkpoints">Checkpoints</a></li>
  <li><a href="/readyz">Ready?</a></li>
  <li><a href="/metrics">Metrics</a></li>
</ul>
</html>
"""


@router.get("/")
async def home(request: Request, runtime: FrontDep) -> HTMLResponse:
    """The page, with the address that the client used and, if there is one, the playground."""
    url = runtime.settings.playground_url
    item = "" if url is None else f'  <li><a href="{html.escape(url)}">Playground</a></li>\n'
    page = PAGE.replace("{playground}", item)
    return HTMLResponse(page.replace("{base}", html.escape(excerpt(request.base_url))))
