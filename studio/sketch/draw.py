"""Draw scenes, in batches of tensors, on a CPU or a GPU."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

from studio.sketch.art import SIDE, TILE, Art, load_art
from studio.sketch.filters import STYLE_FILTERS, blur, luminance
from studio.sketch.scenes import COLOURS, PATTERNS, WALLS, Item, Scene

HELD_SIZE = 0.34  # of the frame


def draw(scene: Scene) -> Image.Image:
    """The scene as an RGB picture [128, 128]; the same scene is always the same picture."""
    return Image.fromarray(to_pixels(draw_batch([scene]))[0])


@torch.no_grad()
def draw_batch(scenes: Sequence[Scene], device: str = "cpu") -> torch.Tensor:
    """Scenes as pictures, float [B, 3, 128, 128] in 0..1.

    The grain of a style depends on the seed of the first scene of the batch.
    """
    art = load_art(device)
    is_3d = _numbers([float(s.style == "3d render") for s in scenes], device).view(-1, 1, 1, 1)
    stand = _Pose(
        *(
            _numbers([getattr(scene, name) for scene in scenes], device)
            for name in ("size", "x", "bottom", "turn", "mirrored")
        )
    )
    body = _placed(_painted(art, scenes), stand)
    mask = body[:, 3:]
    shadow = blur(F.pad(mask, (0, 0, 5, 0))[..., :SIDE, :], 4.0) * 0.28 * is_3d
    picture = _backgrounds(art, scenes, is_3d) * (1 - shadow) * (1 - mask) + body[:, :3]
    side = _numbers([float(scene.side) for scene in scenes], device)
    heads = art.heads[[scene.subject.design for scene in scenes]]
    for items, pose in (
        ([scene.held for scene in scenes], _held_pose(stand, side)),
        ([scene.worn for scene in scenes], _worn_pose(stand, heads)),
    ):
        if any(items):
            drawn = _placed(_designs(art, items), pose)
            picture = picture * (1 - drawn[:, 3:]) + drawn[:, :3]
            mask = torch.maximum(mask, drawn[:, 3:])
    return _in_style(picture.clamp(0, 1), mask, scenes)


@dataclass(frozen=True)
class _Pose:
    """The positions of designs. Each field is [B]; see Scene."""

    size: torch.Tensor
    x: torch.Tensor
    bottom: torch.Tensor
    turn: torch.Tensor
    mirrored: torch.Tensor


def _numbers(values: Sequence[float], device: str) -> torch.Tensor:
    return torch.tensor(values, device=device)


def _held_pose(stand: _Pose, side: torch.Tensor) -> _Pose:
    """The pose of held things: beside the subject, at a third of its height."""
    return _Pose(
        torch.full_like(stand.size, HELD_SIZE),
        (stand.x + side * (stand.size / 2 + 0.10)).clamp(0.16, 0.84),
        stand.bottom - stand.size * 0.30,
        stand.turn / 2,
        torch.zeros_like(stand.mirrored),
    )


def _worn_pose(stand: _Pose, heads: torch.Tensor) -> _Pose:
    """The pose of worn things: on the subject's head. heads: see Art, [B, 3]."""
    middle, top, width = heads.unbind(1)
    size = stand.size * width.clamp(min=0.45) * 0.66
    middle = torch.where(stand.mirrored, 1 - middle, middle)
    return _Pose(
        size,
        stand.x + (middle - 0.5) * stand.size,
        stand.bottom - stand.size * (1 - top) + 0.30 * size,
        stand.turn / 2,
        torch.zeros_like(stand.mirrored),
    )


def _in_style(picture: torch.Tensor, mask: torch.Tensor, scenes: Sequence[Scene]) -> torch.Tensor:
    generator = torch.Generator(picture.device).manual_seed(scenes[0].seed)
    for name, style_filter in STYLE_FILTERS.items():
        at = [i for i, scene in enumerate(scenes) if scene.style == name]
        if at:
            picture[at] = style_filter(picture[at], mask[at], generator).clamp(0, 1)
    return picture


def _backgrounds(art: Art, scenes: Sequence[Scene], is_3d: torch.Tensor) -> torch.Tensor:
    """Places and plain walls, [B, 3, 128, 128]; in 3d renders blurred and lit from above."""
    device = art.places.device
    places = art.places[[scene.place_row for scene in scenes]].float() / 255
    walls = torch.tensor([WALLS[scene.wall] for scene in scenes], device=device).view(-1, 3, 1, 1)
    is_place = torch.tensor([scene.place is not None for scene in scenes], device=device)
    back = torch.where(is_place.view(-1, 1, 1, 1), places, walls)
    turned = torch.tensor([scene.place_mirrored for scene in scenes], device=device)
    back = torch.where(turned.view(-1, 1, 1, 1), back.flip(-1), back)
    light = torch.linspace(1.06, 0.86, SIDE, device=device).view(1, 1, -1, 1)
    return back * (1 - is_3d) + blur(back, 1.4) * light * is_3d


def _designs(art: Art, items: Sequence[Item | None]) -> torch.Tensor:
    """Items' designs, premultiplied RGBA [B, 4, 112, 112]; transparent where there is no item."""
    rgba = art.designs[[item.design if item else 0 for item in items]].float() / 255
    shown = torch.tensor([item is not None for item in items], device=rgba.device)
    return rgba * shown.view(-1, 1, 1, 1)


def _painted(art: Art, scenes: Sequence[Scene]) -> torch.Tensor:
    """The subjects' designs in their paint, premultiplied RGBA [B, 4, 112, 112]."""
    rgba = _designs(art, [scene.subject for scene in scenes])
    device = rgba.device
    paints = [scene.paint for scene in scenes]
    colours = torch.tensor([COLOURS[paint.colour or "white"] for paint in paints], device=device)
    is_coloured = torch.tensor([float(paint.colour is not None) for paint in paints], device=device)
    rgba = _recoloured(rgba, colours, is_coloured)
    masks = _pattern_masks(device)[[PATTERNS.index(paint.pattern) for paint in paints]][:, None]
    second = torch.tensor([COLOURS[paint.pattern_colour] for paint in paints], device=device)
    return rgba * (1 - masks) + _recoloured(rgba, second, torch.ones_like(is_coloured)) * masks


def _recoloured(rgba: torch.Tensor, colour: torch.Tensor, share: torch.Tensor) -> torch.Tensor:
    """Paint the parts that are neither dark nor nearly white, and keep their light and shade."""
    alpha = rgba[:, 3:]
    rgb = rgba[:, :3] / alpha.clamp(min=1e-3)
    value = rgb.amax(1, keepdim=True)
    saturation = (value - rgb.amin(1, keepdim=True)) / value.clamp(min=1e-3)
    is_lit = ((value - 0.16) / 0.2).clamp(0, 1)
    is_white = ((value - 0.86) / 0.08).clamp(0, 1) * ((0.14 - saturation) / 0.08).clamp(0, 1)
    paint = (colour.view(-1, 3, 1, 1) * (0.42 + 0.72 * luminance(rgb))).clamp(0, 1)
    cover = is_lit * (1 - is_white) * 0.94 * share.view(-1, 1, 1, 1)
    return torch.cat([(rgb * (1 - cover) + paint * cover) * alpha, alpha], 1)


def _pattern_masks(device: torch.device) -> torch.Tensor:
    """Where each of PATTERNS has its second colour, [4, 112, 112]."""
    steps = torch.linspace(0, 1, TILE, device=device)
    y, x = torch.meshgrid(steps, steps, indexing="ij")
    stripes = torch.sin((x * 0.8 + y * 0.6) * 2 * math.pi * 5) > 0
    shifted = (y * 6 + 0.5 * ((x * 6).floor() % 2)) % 1
    dots = ((x * 6) % 1 - 0.5) ** 2 + (shifted - 0.5) ** 2 < 0.075
    checks = ((x * 5).floor() + (y * 5).floor()) % 2 > 0
    return torch.stack([torch.zeros_like(stripes), stripes, dots, checks]).float()


def _placed(rgba: torch.Tensor, pose: _Pose) -> torch.Tensor:
    """Tiles [B, 4, 112, 112] placed into frames [B, 4, 128, 128]."""
    angle = torch.deg2rad(pose.turn)
    cos, sin = torch.cos(angle) / pose.size, torch.sin(angle) / pose.size
    flip = torch.where(pose.mirrored, -1.0, 1.0)
    matrix = torch.stack([cos * flip, sin * flip, -sin, cos], -1).view(-1, 2, 2)
    middle = torch.stack([2 * pose.x - 1, 2 * (pose.bottom - pose.size / 2) - 1], -1)[..., None]
    affine = torch.cat([matrix, -matrix @ middle], -1)
    grid = F.affine_grid(affine, [len(rgba), 4, 2 * SIDE, 2 * SIDE], align_corners=False)
    return F.avg_pool2d(F.grid_sample(rgba, grid, align_corners=False), 2)


def to_pixels(pictures: torch.Tensor) -> np.ndarray:
    """Float [B, 3, H, W] in 0..1 to uint8 [B, H, W, 3]."""
    return pictures.permute(0, 2, 3, 1).mul(255).round().byte().cpu().numpy()
