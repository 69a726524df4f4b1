"""Styles as filters of whole pictures.

Each takes pictures [B, 3, 128, 128] in 0..1, the mask of the subject [B, 1, 128, 128] and a
generator, and returns pictures. The styles "3d render" and "flat illustration" need no filter: the
artists' designs have these styles.
"""

import math
from collections.abc import Callable

import torch
from torch.nn import functional as F

from studio.sketch.art import SIDE

StyleFilter = Callable[[torch.Tensor, torch.Tensor, torch.Generator], torch.Tensor]


def blur(x: torch.Tensor, sigma: float) -> torch.Tensor:
    """A Gaussian blur of [B, C, H, W]; sigma in pixels."""
    radius, channels = max(1, int(2.5 * sigma)), x.shape[1]
    t = torch.arange(-radius, radius + 1, device=x.device, dtype=x.dtype)
    kernel = torch.exp(-t * t / (2 * sigma * sigma))
    kernel = (kernel / kernel.sum()).expand(channels, 1, -1)
    pad = (radius, radius, 0, 0)
    x = F.conv2d(F.pad(x, pad, mode="replicate"), kernel[:, :, None], groups=channels)
    return F.conv2d(F.pad(x, pad[::-1], mode="replicate"), kernel[..., None], groups=channels)


def luminance(x: torch.Tensor) -> torch.Tensor:
    """The luminance of pictures: [B, 3, H, W] -> [B, 1, H, W]."""
    return (x * x.new_tensor([0.3, 0.59, 0.11]).view(1, 3, 1, 1)).sum(1, keepdim=True)


def cartoon(x: torch.Tensor, mask: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Strong colours in thick dark outlines."""
    outline = (F.max_pool2d(mask, 5, 1, 2) + F.max_pool2d(-mask, 3, 1, 1)).clamp(0, 1)
    edge = (outline + 0.6 * (_edges(blur(x, 0.7)) - 0.25).clamp(0, 1)).clamp(0, 1)
    return _saturated(x, 1.15) * (1 - edge) + 0.1 * edge


def watercolor(x: torch.Tensor, mask: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Wavering soft shapes, thin paint on paper, darker at the edges."""
    count = len(x)
    wobble = torch.cat([_noise(count, 10, generator) for _ in range(2)], 1).permute(0, 2, 3, 1)
    y, across = _grid(x, torch.linspace(-1, 1, SIDE, device=x.device))
    grid = torch.stack([across, y], -1)[None] + (wobble - 0.5) * 0.09
    wet = blur(F.grid_sample(x, grid, align_corners=False, padding_mode="border"), 1.1)
    paint = 0.62 + 0.36 * _noise(count, 14, generator) - 0.10 * _noise(count, 64, generator)
    out = _colour(x, 0.98, 0.965, 0.93) * (1 - paint) + _saturated(wet, 1.2) * paint
    return out * (1 - 0.55 * blur(_edges(wet), 0.8).clamp(0, 0.8))


def pixel_art(x: torch.Tensor, mask: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """32 x 32 pixels in few colours."""
    small = F.interpolate(x, size=(32, 32), mode="area")
    return F.interpolate((_saturated(small, 1.2) * 5).round() / 5, size=(SIDE, SIDE))


def chalk(x: torch.Tensor, mask: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Grainy coloured chalk on a blackboard."""
    lines = F.max_pool2d((_edges(blur(x, 0.8)) * 2.2 - 0.15).clamp(0, 1), 3, 1, 1)
    bright = _saturated(x, 1.3)
    bright = bright / bright.amax(1, keepdim=True).clamp(min=0.25) * 0.5 + 0.48
    grain = 0.78 + 0.34 * _noise(len(x), SIDE, generator)
    cover = ((0.95 * lines + 0.34 * mask) * grain).clamp(0, 1)
    return _colour(x, 0.13, 0.17, 0.16) * (1 - cover) + bright * cover


def line_drawing(x: torch.Tensor, mask: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Dark lines on paper, with a wash of colour."""
    lines = (_edges(blur(x, 0.8)) * 2.6 - 0.2).clamp(0, 1)
    wash = 0.10 + 0.32 * mask
    return (_colour(x, 0.98, 0.975, 0.95) * (1 - wash) + x * wash) * (1 - lines) + 0.12 * lines


def neon(x: torch.Tensor, mask: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Glowing tubes in the dark."""
    tubes = F.max_pool2d((_edges(blur(x, 1.0)) * 2.4 - 0.3).clamp(0, 1), 3, 1, 1)
    light = _saturated(x, 1.8)
    light = light / light.amax(1, keepdim=True).clamp(min=0.2)
    night = _colour(x, 0.03, 0.02, 0.09) + 0.06 * x
    return night + 1.25 * blur(tubes * light, 3.0) + tubes * (0.6 * light + 0.4)


def ink_drawing(x: torch.Tensor, mask: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Lines and hatching in brown ink on old paper, denser where it is darker."""
    y, across = _pixel_grid(x)
    light = blur(luminance(x), 1.0) * (1 - 0.25 * (1 - mask)) + 0.25 * (1 - mask)  # far is pale
    rising, falling = (
        torch.sin(t * (2 * math.pi / 6)) * 0.5 + 0.5 for t in (across + y, across - y)
    )
    shade = ((0.72 - light) * 1.3 - rising).mul(5).clamp(0, 1)
    dark = ((0.40 - light) * 1.8 - falling).mul(5).clamp(0, 1)
    lines = F.max_pool2d((_edges(blur(x, 0.8)) * 2.4 - 0.25).clamp(0, 1), 2, 1, 1)[..., 1:, 1:]
    ink = torch.maximum(torch.maximum(shade, dark) * 0.8, lines)
    tint = 0.08 + 0.30 * mask
    paper = _colour(x, 0.97, 0.92, 0.80) * (1 - tint) + x * tint
    return paper * (1 - ink) + _colour(x, 0.16, 0.10, 0.10) * ink


def halftone(x: torch.Tensor, mask: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Dots of print, larger where it is darker."""
    y, across = _pixel_grid(x)
    cos, sin = math.cos(math.radians(30)), math.sin(math.radians(30))
    u, v = (across * cos + y * sin) / 6, (y * cos - across * sin) / 6
    distance = ((u % 1 - 0.5) ** 2 + (v % 1 - 0.5) ** 2).sqrt()
    colour = _saturated(blur(x, 1.0), 1.5)
    dots = ((0.62 * (1.05 - luminance(colour)) - distance) * 8).clamp(0, 1)
    lines = (_edges(blur(x, 0.7)) * 2.0 - 0.3).clamp(0, 1)
    tint = (colour * 0.35 + 0.65).clamp(0, 1)
    return (tint * (1 - dots) + colour * 0.8 * dots) * (1 - 0.85 * lines)


def stained_glass(x: torch.Tensor, mask: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Bright panes of glass between lead; the lead follows the subject's outline."""
    points = torch.rand(len(x), 150, 2, generator=generator, device=x.device)
    panes, seam = _voronoi(x, points)
    glass = _saturated(panes * (1 - 0.75 * mask) + x * 0.75 * mask, 1.6)
    glass = glass * 0.9 + 0.1 + 0.08 * (_noise(len(x), 24, generator) - 0.5)
    joints = (1 - seam * SIDE / 2.2).clamp(0, 1) * (1 - 0.8 * mask)
    outline = (F.max_pool2d(mask, 5, 1, 2) + F.max_pool2d(-mask, 3, 1, 1)).clamp(0, 1)
    lines = F.max_pool2d((_edges(blur(x, 1.0)) * 2.2 - 0.45).clamp(0, 1), 3, 1, 1) * mask
    lead = torch.maximum(torch.maximum(joints, outline), lines)
    return glass.clamp(0, 1) * (1 - lead) + 0.07 * lead


def mosaic(x: torch.Tensor, mask: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Square tiles of 5 pixels with pale grout."""
    tile = 5
    count = math.ceil(SIDE / tile)
    padded = F.pad(x, (0, count * tile - SIDE) * 2, mode="replicate")
    shade = torch.rand(len(x), 1, count, count, generator=generator, device=x.device)
    colour = _saturated(F.avg_pool2d(padded, tile), 1.25) * (0.88 + 0.24 * shade)
    tiles = F.interpolate(colour.clamp(0, 1), scale_factor=tile)[..., :SIDE, :SIDE]
    is_edge = torch.arange(SIDE, device=x.device) % tile == 0
    grout = 0.55 * (is_edge[None, :] | is_edge[:, None]).float()
    return tiles * (1 - grout) + 0.9 * grout


STYLE_FILTERS: dict[str, StyleFilter] = {
    "cartoon": cartoon,
    "watercolor": watercolor,
    "pixel art": pixel_art,
    "chalk drawing": chalk,
    "line drawing": line_drawing,
    "neon": neon,
    "ink drawing": ink_drawing,
    "halftone": halftone,
    "stained glass": stained_glass,
    "mosaic": mosaic,
}


def _colour(x: torch.Tensor, red: float, green: float, blue: float) -> torch.Tensor:
    return x.new_tensor([red, green, blue]).view(1, 3, 1, 1)


def _saturated(x: torch.Tensor, factor: float) -> torch.Tensor:
    grey = luminance(x)
    return (grey + (x - grey) * factor).clamp(0, 1)


def _edges(x: torch.Tensor) -> torch.Tensor:
    """The strongest gradient of the three channels, [B, 1, H, W]."""
    p = F.pad(x, (1, 1, 1, 1), mode="replicate")
    across = p[..., 1:-1, 2:] - p[..., 1:-1, :-2]
    down = p[..., 2:, 1:-1] - p[..., :-2, 1:-1]
    return (across * across + down * down).sqrt().amax(1, keepdim=True)


def _noise(count: int, cells: int, generator: torch.Generator) -> torch.Tensor:
    """Smooth noise in 0..1, [count, 1, 128, 128]. cells: random numbers along each side."""
    coarse = torch.rand(count, 1, cells, cells, generator=generator, device=generator.device)
    return F.interpolate(coarse, size=(SIDE, SIDE), mode="bicubic").clamp(0, 1)


def _grid(x: torch.Tensor, steps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    y, across = torch.meshgrid(steps, steps, indexing="ij")
    return y, across


def _pixel_grid(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return _grid(x, torch.arange(SIDE, device=x.device, dtype=x.dtype))


def _voronoi(x: torch.Tensor, points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The mean colour of each point's cell, and how far each pixel is from the cell's edge.

    points: [B, N, 2] in 0..1. Returns [B, 3, 128, 128] and [B, 1, 128, 128].
    """
    count = len(x)
    y, across = _grid(x, (torch.arange(SIDE, device=x.device, dtype=x.dtype) + 0.5) / SIDE)
    pixels = torch.stack([across, y], -1).view(1, -1, 2).expand(count, -1, -1)
    nearest, owner = torch.cdist(pixels, points).topk(2, dim=-1, largest=False)
    cell = owner[..., :1]
    flat = x.flatten(2).transpose(1, 2)
    total = x.new_zeros(count, points.shape[1], 3).scatter_add_(1, cell.expand(-1, -1, 3), flat)
    area = x.new_zeros(count, points.shape[1], 1).scatter_add_(
        1, cell, torch.ones_like(flat[..., :1])
    )
    mean = (total / area.clamp(min=1)).gather(1, cell.expand(-1, -1, 3))
    seam = nearest[..., 1] - nearest[..., 0]
    return mean.transpose(1, 2).reshape(count, 3, SIDE, SIDE), seam.view(count, 1, SIDE, SIDE)
