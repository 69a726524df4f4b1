"""Manifests: what they mean, and that every mistake is told with its line and field."""

import json
import os
import re
import string
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from compose import KLoRA, Merge, Switch
from studio.adapters.tensor_file import write_tensors
from studio.errors import BadInput
from studio.requests.shot import Shot
from ui.batch.manifest import FIELDS, MOST_SHOTS, read_manifest
from ui.batch.plan import plan_batch

# The whole number of the damaged manifests below; a tenth of them is enough from day to day.
MANY = int(os.environ.get("STUDIO_EXAMPLES", "50"))
often = settings(
    max_examples=MANY,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
Write = Callable[..., Path]
LAYER, ONE = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q", torch.ones(1, 1)


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """A manifest of these lines, in a folder with two adapters, a picture and a wildcard."""
    for name in ("robot.safetensors", "ink.safetensors"):
        write_tensors(tmp_path / name, {f"{LAYER}.lora_{side}.weight": ONE for side in "AB"}, {})
    (tmp_path / "start.png").touch()
    (tmp_path / "hurt.safetensors").write_text("hurt")
    (tmp_path / "wildcards").mkdir()
    (tmp_path / "wildcards" / "place.txt").write_text("# where\nthe city\n\na meadow\n")

    def write(*lines: str, name: str = "m.toml") -> Path:
        (tmp_path / name).write_text("\n".join(lines), encoding="utf-8")
        return tmp_path / name

    return write


def shots(path: Path) -> tuple[Shot, ...]:
    return read_manifest(path).shots


def refused(path: Path) -> str:
    with pytest.raises(BadInput) as error:
        plan_batch(path, path.parent / "out", resume=False)
    return str(error.value)


def test_lists_multiply(write: Write) -> None:
    found = shots(
        write(
            "steps = 12",
            'prompts = ["a cat", "a dog"]',
            'seeds = "5..7"',
            'mixes = [[], ["robot.safetensors:0.8"], "robot.safetensors + ink.safetensors:0.5"]',
            'methods = ["klora alpha=1.2 style=2", {name = "switch", interval = 3}]',
            "guidance = [4, 6.5]",
        )
    )
    # Without an adapter there is nothing to mix, so there both methods are one shot twice.
    assert len(found) == 2 * 3 * 3 * 2 * 2
    assert {one.steps for one in found} == {12}
    assert [one.seed for one in found[:12]] == [5] * 12
    assert found[0].adapters == () and found[0].method is None
    assert [(Path(file).name, by) for file, by in found[4].adapters] == [
        ("robot.safetensors", 1.0),
        ("ink.safetensors", 0.5),
    ]
    assert found[4].method == KLoRA(alpha=1.2, style=(2,))
    assert found[5].method == Switch(interval=3)
    assert {one.guidance for one in found} == {4, 6.5}


def test_a_table_sets_aside_what_stands_at_the_top(write: Write) -> None:
    found = shots(
        write(
            'prompts = ["a cat", "a dog"]',
            "seeds = [1, 2]",
            "[[shots]]",
            "steps = 9",
            "[[shots]]",
            'prompt = "a star"',
            "seed = 3",
        )
    )
    assert [(one.prompt, one.seed, one.steps) for one in found] == [
        ("a cat", 1, 9),
        ("a cat", 2, 9),
        ("a dog", 1, 9),
        ("a dog", 2, 9),
        ("a star", 3, 25),
    ]


def test_prompts_come_from_files_too(write: Write) -> None:
    write("a cat", "# a remark", "", "  a dog", name="prompts.txt")
    found = shots(write('prompt_file = "prompts.txt"', 'method = "merge"'))
    assert [one.prompt for one in found] == ["a cat", "a dog"]


def test_choices_are_drawn_by_the_seed_or_all_made(write: Write) -> None:
    prompt = 'prompt = "a {red|blue} cat in __place__, \\\\{so\\\\}"'
    drawn = shots(write(prompt, 'seeds = "1..40"'))
    assert drawn == shots(write(prompt, 'seeds = "1..40"'))
    texts = {one.prompt for one in drawn}
    every = {one.prompt for one in shots(write(prompt, 'expand = "all"'))}
    assert texts == every
    assert every == {
        f"a {colour} cat in {place}, {{so}}"
        for colour in ("red", "blue")
        for place in ("the city", "a meadow")
    }


def test_one_prompt_and_seed_say_the_same_under_every_mix(write: Write) -> None:
    found = shots(
        write(
            'prompt = "a {red|blue|green} {cat|dog} in __place__"',
            'seeds = "1..9"',
            'mixes = [[], ["robot.safetensors"]]',
            "steps = [5, 6]",
        )
    )
    assert len({(one.seed, one.prompt) for one in found}) == 9


def test_wildcards_may_be_lists_and_hold_choices_again(write: Write) -> None:
    found = shots(
        write(
            'prompt = "__who__"',
            'expand = "all"',
            "[wildcards]",
            'who = ["a __colour__ cat", "a {big|{tiny|small}} dog"]',
            'colour = ["red", "blue"]',
        )
    )
    said = ["a red cat", "a blue cat", "a big dog", "a tiny dog", "a small dog"]
    assert [one.prompt for one in found] == said


def test_lines_of_json(write: Write) -> None:
    one = {"prompt": "a cat", "seed": 7, "adapters": ["robot.safetensors:0.5"], "method": "merge"}
    two = {"prompt": "a dog", "width": 64, "height": 128, "init_image": "start.png"}
    found = shots(write(json.dumps(one), "", json.dumps(two), name="m.jsonl"))
    assert found[0].seed == 7 and found[0].method == Merge() and found[0].adapters[0][1] == 0.5
    assert (found[1].width, found[1].height) == (64, 128)
    assert found[1].init_image == str(write().parent / "start.png")


def test_a_row_has_a_mask_and_a_second_pass(write: Write) -> None:
    found = shots(
        write(
            "prompt,init_image,mask,denoise,spacing,second_pass,second_denoise",
            "a cat,start.png,start.png,1,trailing,,",
            "a cat,,,,,1.5,0.3",
            name="m.csv",
        )
    )
    assert found[0].mask == found[0].init_image == str(write().parent / "start.png")
    assert (found[0].denoise, found[0].spacing) == (1.0, "trailing")
    assert (found[1].second_pass, found[1].second_denoise) == (1.5, 0.3)
    assert refused(write('prompt = "a"', 'mask = "start.png"')).startswith(
        "m.toml, line 2, mask: needs init_image"
    )


def test_a_speed_adapter_sets_what_a_shot_leaves_open(write: Write) -> None:
    path = write(
        'prompt = "a"',
        'negative = "fog"',
        'mixes = [[], ["lcm.safetensors"]]',
        "steps = 6",
    )
    robot = path.parent / "robot.safetensors"
    (path.parent / "lcm.safetensors").write_bytes(robot.read_bytes())
    found = read_manifest(path)
    assert [one.scheduler for one in found.shots] == [None, "lcm"]
    assert [(one.steps, one.guidance) for one in found.shots] == [(6, 5.0), (6, 1.0)]
    assert found.notes == (
        "lcm makes pictures fast (LCM-LoRA): sampler lcm, CFG scale 1",
        "the negative prompt does nothing where the CFG scale is 1",
    )


def test_null_in_a_line_of_json_is_a_field_not_given(write: Write) -> None:
    nothing = dict.fromkeys(("width", "height", "scheduler", "adapters", "method", "init_image"))
    (found,) = shots(write(json.dumps({"prompt": "a cat", "seed": None} | nothing), name="m.jsonl"))
    assert found == Shot("a cat")
    said = refused(write('{"prompt": null, "widht": null}', name="m.jsonl"))
    assert "line 1, widht: there is no such field; did you mean width?" in said
    assert "line 1, prompt: it is missing" in said


@pytest.mark.parametrize("between", [",", ";", "\t"])
def test_rows_of_a_table(write: Write, between: str) -> None:
    rows = [
        ("prompt", "seed", "guidance", "adapters"),
        ("a cat", "7", "3.5", "robot.safetensors:0.5 + ink.safetensors"),
        ("a dog", "", "", ""),
    ]
    found = shots(write(*(between.join(row) for row in rows), name="m.csv"))
    assert (found[0].seed, found[0].guidance) == (7, 3.5)
    assert [by for _, by in found[0].adapters] == [0.5, 1.0]
    assert found[1] == Shot("a dog")


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        (['prompt = "a"', "step = 3"], "line 2, step: there is no such field; did you mean steps?"),
        (['prompts = ["a"]', "seeds = [", " 1,", " -2,", "]"], "line 4, seeds: must .*; it is -2"),
        (['prompts = ["a",', '"b {c"]'], "line 2, prompts: a { has no } behind it"),
        (['prompt = "__plase__"'], "line 1, prompt: there is no wildcard plase: did you mean pla"),
        (['prompt = "a"', 'mixes = [["rob"]]'], "line 2, mixes: there is no adapter"),
        (['prompt = "a"', 'mixes = ["hurt.safetensors"]'], "line 2, mixes: .*hurt.safetensors"),
        (['prompt = "a"', 'method = "klora alpa=1"'], "line 2, method: .*did you mean 'alpha'"),
        (['prompt = "a"', 'method = "mergee"'], "line 2, method: There is no method 'mergee'"),
        (
            ['prompt = "a"', "[[shots]]", "seed = 1", "[[shots]]", "seed = -1"],
            "line 5, seed: .* -1, any seed: give numbers",
        ),
        (["[[shots]]", "seed = 1", "[[shots]]", 'prompt = "a"'], "line 1, prompt: it is missing"),
        (['prompt = "a"', 'prompts = ["b"]'], "line 2, prompts: prompt is given twice"),
        (['prompt = "a"', 'scheduler = "eular"'], "line 2, scheduler: .*euler.*'eular'"),
        (
            ['prompt = "a"', 'scheduler = ["euler", "lcm"]', 'spacing = "karras"'],
            "line 3, spacing: must be one of trailing, sgm_uniform for lcm",
        ),
        (['prompt = "a"', 'base = "scetch"'], "line 2, base: there is no base 'scetch'"),
        (['prompt = "a"', 'init_image = "no.png"'], "line 2, init_image: there is no picture"),
        (['prompt = "a', "b = 1"], "line 1, prompt: this is not valid TOML"),
        (
            ['prompt = "a"', "seeds = " + "[" * 3000],
            "line 2, seeds: .* TOML: it is too",
        ),
        (
            ['prompt = "a"', "seed = 0x" + "f" * 9000],
            "line 2, seed: holds a number that is",
        ),
        ([f'prompt = "{"{a|b}" * 17}"', 'expand = "all"'], "line 1, prompt: it can become 131,072"),
        (['prompt = "__a__"', "[wildcards]", 'a = ["__a__"]'], "line 1, prompt: .*back to itself"),
        (
            ['init_image = "start.png"', 'prompt = "a"', "steps = [9,", "1]"],
            "denoise: .*0.6 of 1 st",
        ),
        ([], "line 1, prompt"),
    ],
)
def test_mistakes_are_told_with_line_and_field(write: Write, lines: list[str], says: str) -> None:
    assert re.search(re.escape("m.toml, ") + ".*" + says, refused(write(*lines)))


def test_mistakes_in_a_file_of_prompts_are_told_where_they_are(write: Write) -> None:
    write("a cat", "a }", name="prompts.txt")
    said = refused(write('prompt_file = "prompts.txt"'))
    assert said.startswith("prompts.txt, line 2, prompt: a } has no {")


def test_all_mistakes_are_told_at_once(write: Write) -> None:
    said = refused(write('prompt = "a"', "steps = 0", "seed = -1", 'base = "?"', "witdh = 8"))
    assert said.startswith("4 mistakes:")
    assert [line.partition(":")[0] for line in said.split("\n")[1:]] == [
        f"  m.toml, line {number}, {field}"
        for number, field in ((2, "steps"), (3, "seed"), (4, "base"), (5, "witdh"))
    ]


def test_the_lines_of_many_tables_are_found_without_reading_all_for_each(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables = ["[[shots]]", 'prompt = """a', 'cat"""', "", "[[ shots ]] # more", "prompt = 'b'"]
    path = write("steps = 2", *tables * 100)
    read, loads = [], tomllib.loads
    monkeypatch.setattr(tomllib, "loads", lambda text: read.append(len(text)) or loads(text))
    lines = [one.places[""]().line for one in read_manifest(path).planned]
    assert lines == [line for number in range(100) for line in (6 * number + 2, 6 * number + 6)]
    assert sum(read) < 20 * path.stat().st_size


def test_a_text_that_looks_like_a_table_is_none(write: Write) -> None:
    path = write(
        'prompt = """', "[[shots]]", '"""', "[[shots]]", "seed = 1", "[[shots]]", "sed = 2"
    )
    assert refused(path).startswith("m.toml, line 7, sed: ")


def doubling(levels: int, line: str) -> list[str]:
    """A prompt whose wildcards lead through so many levels."""
    names = [
        f'w{level} = ["{line.replace("NEXT", f"__w{level + 1}__")}"]' for level in range(levels)
    ]
    return ['prompt = "__w0__"', "[wildcards]", *names, f'w{levels} = ["a", "b"]']


@pytest.mark.parametrize("expand", ["one", "all"])
@pytest.mark.parametrize(
    ("lines", "says"),
    [
        (doubling(14, "NEXT NEXT NEXT NEXT"), "longer than 10,000 characters"),
        (doubling(14, "NEXTNEXTNEXTNEXT"), "longer than 10,000 characters"),
        (doubling(25, "NEXT"), "choices stand more than 20 deep in one another"),
        ([f'prompt = "{"{" * 30}a{"}" * 30}"'], "choices stand more than 20 deep"),
        ([f'prompt = "{"a" * 10_001}"'], "it is longer than 10,000 characters"),
    ],
)
def test_a_small_manifest_cannot_grow_without_end(
    write: Write, lines: list[str], says: str, expand: str
) -> None:
    said = refused(write(f'expand = "{expand}"', *lines))
    assert re.search(f"m.toml, line 2, prompt: .*{says}", said)


def test_a_count_of_texts_that_cannot_be_printed_is_said_in_short(write: Write) -> None:
    said = refused(write('expand = "all"', *doubling(11, "NEXT NEXT")))
    assert "it can become 1,000,000,000,000 or more texts, and 100,000 are the most" in said


def test_many_prompts_of_many_texts_are_refused_before_they_are_made(write: Write) -> None:
    prompts = ", ".join(f'"{number} {"{a|b}" * 16}"' for number in range(1000))
    said = refused(write(f"prompts = [{prompts}]", 'expand = "all"'))
    assert "line 1, prompts: it has more than 100,000 values" in said


def test_a_name_with_a_null_is_refused(write: Write) -> None:
    said = refused(write('prompt = "a"', 'init_image = "a\\u0000b"', 'base = "a\\u0000b"'))
    assert said.count("has a NUL in it") == 2


# From here on: manifests spoiled by a generator, a field or a sign at a time.

words = st.text(string.ascii_lowercase + " ", min_size=1, max_size=12).filter(str.strip)
right: dict[str, st.SearchStrategy[object]] = {
    "negative": words,
    "seed": st.integers(0, 2**63 - 1),
    "width": st.sampled_from([64, 512]),
    "height": st.sampled_from([64, 512]),
    "steps": st.integers(2, 50),
    "guidance": st.floats(1, 20),
    "scheduler": st.sampled_from(["euler", "ddim"]),
    "spacing": st.sampled_from(["leading", "trailing"]),
    "adapters": st.sampled_from([["robot.safetensors"], ["ink.safetensors:0.5"]]),
    "method": st.sampled_from(["merge", "switch interval=2"]),
    "denoise": st.floats(0.5, 1),
}
not_texts = st.sampled_from([3, 1.5, True, [1]])
not_numbers = st.sampled_from(["x", True, -1, 1e30, float("nan"), ["y"]])
wrong: dict[str, st.SearchStrategy[object]] = {
    "prompt": not_texts | st.sampled_from(["{a", "a}", "__nothing__", "a\0b"]),
    "negative": not_texts | st.sampled_from(["{{{", "}"]),
    **dict.fromkeys(("seed", "steps", "guidance", "denoise"), not_numbers),
    **dict.fromkeys(("width", "height"), not_numbers | st.just(1001)),
    "scheduler": not_texts | words,
    "spacing": not_texts | words,
    "adapters": not_texts | st.lists(words | not_texts, min_size=1, max_size=2),
    "method": not_texts | words | st.sampled_from(["merge ranc=2", "switch interval=x"]),
    "base": not_texts | words,
    "init_image": not_texts | words,
}


def toml(value: object) -> str:
    """A value as TOML writes it."""
    if isinstance(value, list):
        return f"[{', '.join(map(toml, value))}]"
    return str(value) if value != value or isinstance(value, float) else json.dumps(value)


def csv_cell(value: object) -> str:
    text = " + ".join(map(str, value)) if isinstance(value, list) else str(value)
    return '"' + text.replace('"', '""') + '"'


@st.composite
def spoiled(draw: st.DrawFn) -> tuple[str, str, int, str]:
    """A manifest with one wrong field: file name, text, the line and the name of that field."""
    kind = draw(st.sampled_from(["m.toml", "m.jsonl", "m.csv"]))
    rows = draw(
        st.lists(st.fixed_dictionaries({"prompt": words}, optional=right), min_size=1, max_size=4)
    )
    at = draw(st.integers(0, len(rows) - 1))
    misspelled = words.map(lambda word: word.replace(" ", "_") + "_").filter(
        lambda word: word not in FIELDS
    )
    if draw(st.booleans()):
        field, value = draw(misspelled), 1
    else:
        field = draw(st.sampled_from(sorted(wrong)))
        value = draw(wrong[field])
    if kind == "m.csv":
        # There all is text, so that what is no text elsewhere is one here; and columns are all's.
        field, value = draw(st.sampled_from([("seed", "x"), ("steps", "0"), ("prompt", "{a")]))
    rows = [{key: value for key, value in row.items() if key != "init_image"} for row in rows]
    rows[at][field] = value
    if kind == "m.toml":
        lines: list[str] = []
        for number, row in enumerate(rows):
            lines.append("[[shots]]")
            for key, inside in row.items():
                lines.append(f"{key} = {toml(inside)}")
                if number == at and key == field:
                    line = len(lines)
    elif kind == "m.jsonl":
        lines, line = [json.dumps(row) for row in rows], at + 1
    else:
        names = list(dict.fromkeys(key for row in rows for key in row))
        lines = [",".join(names)]
        lines += [",".join(csv_cell(row.get(name, "")) for name in names) for row in rows]
        line = at + 2
    return kind, "\n".join(lines), line, field


@often
@given(spoiled())
def test_any_wrong_field_is_named(write: Write, found: tuple[str, str, int, str]) -> None:
    name, text, line, field = found
    said = refused(write(text, name=name))
    assert f"{name}, line {line}, {field}: " in said
    assert len(said) < 2000


@often
@given(spoiled(), st.integers(0, 400), st.sampled_from(["", *'"[]{}=,\\#\n\0é']), st.booleans())
def test_any_damage_is_answered_with_a_sentence(
    write: Write, found: tuple[str, str, int, str], at: int, sign: str, cut: bool
) -> None:
    """A sign put in, or taken away with all that follows: still a line and a field, never else."""
    name, text, _, _ = found
    at = min(at, len(text))
    damaged = text[:at] + sign + ("" if cut else text[at + (not sign) :])
    path = write(damaged, name=name)
    try:
        plan_batch(path, path.parent / "out", resume=False)
    except BadInput as error:
        lines = damaged.count("\n") + 1
        told = re.findall(re.escape(name) + r", line (\d+), (.+?): ", str(error))
        assert told and all(1 <= int(line) <= lines for line, _ in told)


@often
@given(st.binary(max_size=200), st.sampled_from(["m.toml", "m.jsonl", "m.csv"]))
def test_any_bytes_are_answered_with_a_sentence(write: Write, content: bytes, name: str) -> None:
    path = write(name=name)
    path.write_bytes(content)
    with pytest.raises(BadInput, match=r", line \d+, \S"):
        plan_batch(path, path.parent / "out", resume=False)


def test_most_shots_is_a_number_that_is_held(write: Write) -> None:
    said = refused(write(f'prompt = "{"{a|b}" * 16}"', "steps = [5, 6]", 'expand = "all"'))
    assert f"131,072 shots, and {MOST_SHOTS:,} are the most" in said


def test_a_tag_in_a_prompt_is_an_adapter_beside_the_manifest(write: Write) -> None:
    path = write('prompt = "a cat <lora:robot:0.5>"', 'method = "switch"')
    (shot,) = shots(path)
    assert (shot.prompt, shot.method) == ("a cat", Switch())
    assert shot.adapters == ((str(path.parent / "robot.safetensors"), 0.5),)
    said = refused(write('prompt = "a <lora:bolt> dog"'))
    assert "line 1, prompt" in said and "names the adapter bolt" in said
    said = refused(write('prompt = "a dog"', 'negative = "a [cat|dog]"'))
    assert "line 2, negative" in said and "prompt editing" in said
