"""The samplers that a shot can name, and how each of them can space its timesteps.

No PyTorch here; `studio/bases/schedulers.py` makes diffusers' schedulers of these names.
"""

# Spacings of timesteps: trailing and sgm_uniform begin at the last one, leading a bit before it.
BY_TIMESTEP = ("leading", "trailing", "sgm_uniform")
# Spacings of noise levels: karras is that of Karras et al. 2022, exponential is even in logarithms.
SPACINGS = (*BY_TIMESTEP, "karras", "exponential")
DISTILLED = ("trailing", "sgm_uniform")  # without a spacing: the steps of the distillation

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
SECOND_ORDER = ("heun", "dpmpp_sde")  # evaluate the UNet twice a step, except for the last
DISTILLED_STEPS = 50  # the most that lcm and tcd have where no spacing is given


def order_of(scheduler: str | None) -> int:
    """1 or 2; the base's own scheduler (None) is taken to be of first order."""
    return 2 if scheduler in SECOND_ORDER else 1


def evaluations(order: int, steps: int) -> tuple[int, ...]:
    """How often each step evaluates the UNet under one mix: `order` times; the last step once."""
    return (order,) * (steps - 1) + (1,)


def sampling_problems(scheduler: str | None, spacing: str | None, steps: int) -> dict[str, str]:
    """What is wrong with a shot's `spacing` or `steps` for its scheduler: a sentence by field.

    The base's own scheduler (None) is checked when the base is open.
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
