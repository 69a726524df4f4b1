"""The one function of Gradio's page that is replaced."""

from ui.web.server.gradio_patch import FAST, SLOW, faster


def test_this_release_of_gradio_has_the_function() -> None:
    assert len(faster()) == 1


def test_a_release_without_it_is_served_as_it_is(monkeypatch, tmp_path) -> None:
    (tmp_path / "core-x.js").write_text("const nothing = 1;")
    monkeypatch.setattr("ui.web.server.gradio_patch.ASSETS", tmp_path)
    assert faster() == []


def test_components_are_found_wherever_they_are_now(chromium) -> None:
    page = chromium.new_page()
    page.evaluate(f"() => {{ {SLOW.replace('function Z', 'window.slow = function Z')} }}")
    page.evaluate(f"() => {{ {FAST} window.fast = Z; }}")
    assert page.evaluate("""() => {
      const leaf = (id) => ({ id });
      const root = { id: 0, children: [leaf(1), { id: 2, children: [leaf(3), leaf(4)] }] };
      const same = () => [0, 1, 2, 3, 4, 5].every((id) => fast(root, id) === slow(root, id));
      const trials = [same(), same()];
      root.children[1].children.reverse();
      trials.push(same());
      root.children.unshift(leaf(5));
      trials.push(same());
      root.children[2] = { id: 2, children: [] };
      trials.push(same(), same());
      return trials.every(Boolean) && fast(root, 3) === null;
    }""")
    page.close()
