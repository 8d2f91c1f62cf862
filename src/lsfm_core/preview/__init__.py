"""A first look at a file: a picture of its channels' middle slices, or a page that tells all of it.

Inside: `request` what can be asked for; `_planes` the three views of a channel, in world geometry; `picture` their colours, and
their layout with letters and a scale bar; `page` and `page.css` the page; `run` the request carried out.
"""

from lsfm_core.preview.page import render_page
from lsfm_core.preview.picture import Layout, Panel, ScaleBar, Text
from lsfm_core.preview.request import PreviewRequest
from lsfm_core.preview.run import PreviewResult, describe_preview, preview_file

__all__ = [
    "Layout",
    "Panel",
    "PreviewRequest",
    "PreviewResult",
    "ScaleBar",
    "Text",
    "describe_preview",
    "preview_file",
    "render_page",
]
