"""The samplers that a shot can name, and how each of them can space its timesteps.

No PyTorch here; `studio/bases/schedulers.py` makes diffusers' schedulers of these names.
"""

# Of timesteps: trailing and sgm_uniform begin at the last one, leading a little before it.
BY_TIMESTEP = ("leading", "trailing", "sgm_uniform")
# Of noise levels, as Karras et al. 2022 have them, or evenly on a logarithmic scale.
SPACINGS = (*BY_TIMESTEP, "karras", "exponential")
DISTILLED = ("trailing", "sgm_uniform")  # or the steps that the distillation had

SPACINGS_OF = {
    "euler": SPACINGS,
    "euler_a": BY_TIMESTEP,
    "heun": SPACINGS,
    "dpmpp_2m": SPACINGS,
    "dpmpp_2m_sde": SPACINGS,
    "dpmpp_sde": SPACINGS,
    "unipc": SPACINGS,
    "ddim": BY_TIMESTEP,
    "ddpm": BY_TIMESTEP,
    "lcm": DISTILLED,
    "tcd": DISTILLED,
}
SCHEDULERS = tuple(SPACINGS_OF)
SECOND_ORDER = ("heun", "dpmpp_sde")  # evaluate the UNet twice a step, but for the last
DISTILLED_STEPS = 50  # of lcm and tcd, where no spacing is given


def order_of(scheduler: str | None) -> int:
    """1 or 2; the base's own scheduler (None) is taken to be of first order."""
    return 2 if scheduler in SECOND_ORDER else 1


def evaluations(order: int, steps: int) -> tuple[int, ...]:
    """How often each of these steps evaluates the UNet under one mix: the last one once."""
    return (order,) * (steps - 1) + (1,)


def sampling_problems(scheduler: str | None, spacing: str | None, steps: int) -> dict[str, str]:
    """Sentences about the fields `spacing` and `steps` where no sampler works so; see Shot.

    None for the base's own scheduler is checked when the base is open.
    """
    if scheduler not in SPACINGS_OF:
        return {}
    fitting = SPACINGS_OF[scheduler]
    if spacing is not None and spacing not in fitting:
        return {"spacing": f"spacing must be one of {', '.join(fitting)} for {scheduler}"}
    if fitting == DISTILLED and spacing is None and steps > DISTILLED_STEPS:
        problem = (
            f"steps must be at most {DISTILLED_STEPS} for {scheduler}, as distillations have no "
            "more; choose the spacing trailing for more"
        )
        return {"steps": problem}
    return {}
