"""Gradio's page with one function of it made faster.

For every input and output of every event the page looks for the component by its number, and walks
the whole tree of components for it, through proxies: milliseconds each, on a page of hundreds. The
function served here tries the way that led there last time, and walks where that leads elsewhere.
Where a release of Gradio has the function no more, its page is served as it is.
"""

from pathlib import Path

import gradio
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

__all__ = ["faster"]

ASSETS = Path(gradio.__file__).parent / "templates" / "frontend" / "assets"
SLOW = (
    "function Z(e,t){if(e.id===t)return e;if(e.children)"
    "for(let n of e.children){let e=Z(n,t);if(e)return e}return null}"
)
FAST = """const studioWays=new Map();
function Z(root,id){
  let node=root;
  for(const at of studioWays.get(id)??[-1]){node=node.children?.[at];if(!node)break}
  return node?.id===id?node:studioWalk(root,id,[]);
}
function studioWalk(node,id,way){
  if(node.id===id){studioWays.set(id,way);return node}
  const under=node.children??[];
  for(let at=0;at<under.length;at++){
    const found=studioWalk(under[at],id,[...way,at]);
    if(found)return found;
  }
  return null;
}
"""


def faster() -> list[Route]:
    """What is to be served before Gradio's own files: at most one of them."""
    for file in ASSETS.glob("core-*.js"):
        text = file.read_text(encoding="utf-8")
        if text.count(SLOW) == 1:
            return [Route(f"/assets/{file.name}", _serving(text.replace(SLOW, FAST)))]
    return []


def _serving(text: str):
    async def serve(request: Request) -> Response:
        # Its name is that of Gradio's own, which a browser may keep for long.
        return Response(text, media_type="text/javascript", headers={"cache-control": "no-cache"})

    return serve
