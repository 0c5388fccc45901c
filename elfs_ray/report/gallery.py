"""Pictures of a coreset as a piece of HTML: in a notebook, or as a page of their own."""

from collections.abc import Sequence

from markupsafe import Markup, escape

from elfs_ray.report.thumbnails import Thumbnail

_FIGURE = Markup(
    '<figure style="margin:0;width:{side}px;font:11px sans-serif;overflow:hidden" title="{name}">{picture}'
    '<figcaption style="white-space:nowrap;text-overflow:ellipsis;overflow:hidden">{caption}</figcaption></figure>'
)
_PICTURE = Markup('<img src="{data}" style="max-width:100%;display:block">')


def gallery_html(heading: str, pictures: Sequence[Thumbnail], side: int) -> str:
    """A heading and below it pictures with captions; text stands in for a picture that could not be made."""
    figures = [
        _FIGURE.format(
            side=side,
            name=picture.sample_id,
            picture=_PICTURE.format(data=picture.data) if picture.data else escape(picture.sample_id),
            caption=picture.caption,
        )
        for picture in pictures
    ]
    row = Markup('<div style="display:flex;flex-wrap:wrap;gap:6px">{}</div>').format(Markup("").join(figures))
    return str(Markup("<div><p>{}</p>{}</div>").format(heading, row))


def page_html(title: str, body: str) -> str:
    """A whole page around a piece of HTML."""
    head = Markup('<!doctype html><meta charset="utf-8"><title>{}</title>').format(title)
    return str(head) + body
