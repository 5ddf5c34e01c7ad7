"""The page in a real browser: numbers, drawing, uploads, overlays, and what it must never do."""

import numpy as np
import pytest

from cnnjax.explorer import one_file

pytestmark = pytest.mark.browser
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=ARGUMENTS)
        yield running
        running.close()


@pytest.fixture
def pages(browser):
    """Return a function that opens a tab; at the end no tab may have complained or asked another host."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, locale="en-US")
    complaints, asked = [], []
    context.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    context.on("weberror", lambda error: complaints.append(str(error.error)))
    context.on("request", lambda request: asked.append(request.url))

    def open_page(url):
        page = context.new_page()
        page.goto(url)
        page.wait_for_selector("body[data-ready]")
        return page

    open_page.complaints, open_page.asked = complaints, asked
    yield open_page
    context.close()
    assert complaints == []
    assert all(url.startswith(("http://127.0.0.1:", "data:", "blob:", "file:")) for url in asked), asked


def number(page, selector):
    return page.locator(selector).inner_text()


def four_digits(value):
    """Return a number as the page writes it."""
    value = float(value)
    if value == int(value):
        return str(int(value)).replace("-", "\u2212")
    if abs(value) < 1e-4 or abs(value) >= 1e5:
        mantissa, exponent = f"{value:.3e}".split("e")
        return f"{mantissa}e{int(exponent)}".replace("-", "\u2212").replace("e\u2212", "e-")
    digits = 3 - int(np.floor(np.log10(abs(value))))
    return f"{value:.{max(0, digits)}f}".replace("-", "\u2212")


def choose(page, layer, index):
    page.evaluate("([layer, index]) => chooseUnit(layer, index)", [layer, list(index)])


def test_numbers_are_those_of_jax(pages, served, values):
    page = pages(served.url)
    random = np.random.default_rng(0)
    layers = served.network.describe()["layers"]
    for at, (layer, own) in enumerate(zip(layers, values, strict=True)):
        for _ in range(3):
            index = tuple(int(random.integers(size)) for size in own.shape)
            choose(page, at, index)
            assert number(page, "#unit-value") == four_digits(own[index]), (layer["title"], index)
            total = page.locator("#unit-steps li .number, #unit-total").last
            if layer["core"]["kind"] not in ("image", "move"):
                shown = float(total.inner_text().replace("\u2212", "-"))
                np.testing.assert_allclose(shown, own[index], rtol=6e-4, atol=1e-4 * np.abs(own).max())


def test_click_shows_window_kernel_and_products(pages, served, values):
    page = pages(served.url)
    page.click('canvas[data-layer="1"][data-channel="2"]', position={"x": 1, "y": 1})
    page.wait_for_selector("#unit-value")
    assert number(page, "#unit-value") == four_digits(values[1][0, 0, 2])
    grids = page.locator("#unit-grids table")
    assert grids.count() == 3
    # The first window is half in the padding.
    assert page.locator("#unit-grids table").first.locator("td.outside").count() == 25 - 9
    kernel = served.network.fixed(1, "kernel")[:, :, 0, 2].ravel()
    titles = grids.nth(1).locator("td").evaluate_all("cells => cells.map(cell => cell.title)")
    assert titles == [four_digits(value) for value in kernel]
    for _ in range(13):
        page.click("#unit-step")
    assert page.locator("#unit-grids td.now").count() == 3
    assert "13 of 25" in number(page, "#unit-progress")
    page.click("#unit-play")
    page.wait_for_function("() => document.getElementById('unit-progress').textContent.startsWith('15')")


def draw(page, points):
    box = page.locator("#pad").bounding_box()
    corners = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in points]
    page.mouse.move(*corners[0])
    page.mouse.down()
    for corner in corners[1:]:
        page.mouse.move(*corner, steps=4)
    page.mouse.up()


def prediction(page):
    """Return the name of the picture that is shown, and the probabilities of its classes."""
    return page.evaluate(
        "async () => [state.picture.name,"
        " Array.from(await source.values(state.picture, network.layers.length - 1, [0], [network.classes.length]))]"
    )


def test_drawing_changes_the_prediction(pages, served):
    page = pages(served.url)
    name, before = prediction(page)
    for points in ([(0.5, 0.1), (0.5, 0.9)], [(0.1, 0.5), (0.9, 0.5)], None):
        if points is None:
            page.focus("#pad")
            page.keyboard.press("ArrowUp")
        else:
            draw(page, points)
        page.wait_for_function("old => state.picture.name !== old", arg=name)
        name, after = prediction(page)
        assert after != before
        np.testing.assert_allclose(after, served.network.values(name)[-1], rtol=1e-6)
        before = after
    assert page.locator("#classes li").count() == 5


def test_upload_that_is_no_image_gets_one_message(pages, served, tmp_path):
    page = pages(served.url)
    (tmp_path / "notes.txt").write_text("no picture")
    page.set_input_files("#upload", tmp_path / "notes.txt")
    page.wait_for_selector("#message:not([hidden])")
    assert number(page, "#message") == "This file is no picture that can be read. Choose a PNG or JPEG file."
    assert page.locator(".error:not([hidden])").count() == 1
    page.click("#next")
    page.wait_for_selector("#message", state="hidden")
    # The browser itself notes the refusal; nothing else may be there.
    assert len(pages.complaints) == 1
    assert "422" in pages.complaints.pop()


def test_second_tab_keeps_its_own_picture(pages, served):
    first, second = pages(served.url), pages(served.url)
    second.click("#next")
    second.wait_for_function("() => document.getElementById('picture-caption').textContent.includes('one')")
    for page, picture in ((first, 0), (second, 1)):
        own = served.network.values(served.network.know(served.examples.read(picture)[0]))
        choose(page, len(own) - 1, (2,))
        assert number(page, "#unit-value") == four_digits(own[-1][2])


def test_overlays_and_keys_and_languages(pages, served):
    page = pages(served.url)
    before = page.evaluate("document.getElementById('picture').toDataURL()")
    for method in served.methods:
        page.check(f'input[name="overlay"][value="{method}"]')
        page.wait_for_function("old => document.getElementById('picture').toDataURL() !== old", arg=before)
    page.check('input[name="overlay"][value=""]')
    page.wait_for_function("old => document.getElementById('picture').toDataURL() === old", arg=before)
    page.focus('#columns canvas[tabindex="0"]')
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    page.wait_for_selector("#unit-own")
    page.focus("#unit-own")
    page.keyboard.press("ArrowRight")
    page.wait_for_function("() => document.getElementById('unit-name').textContent.includes('column 5')")
    assert page.locator("#unit-name").inner_text().startswith("stem conv 5x5/2, map 1, row 4, column 5 = ")
    for language, word in (("es", "Red"), ("pt", "Rede"), ("en", "Network")):
        page.select_option("#language", language)
        assert number(page, "#network-title") == word
    assert page.evaluate("Object.values(TEXTS).every(row => row.length === 3 && row.every(text => text))")


def test_stages_fold(pages, served):
    page = pages(served.url)
    count = page.locator("#columns canvas[data-layer]").count()
    page.click('button[data-path="stage1"]')
    page.wait_for_selector('button[data-path="stage1"][aria-expanded="false"]')
    assert page.locator("#columns canvas[data-layer]").count() < count
    page.click('button[data-path="stage1"]')
    page.wait_for_selector('button[data-path="stage1"][aria-expanded="true"]')


def test_all_maps_and_narrow_screens(pages, served):
    page = pages(served.url)
    wide = next(n for n, layer in enumerate(served.network.layers) if layer.shape[-1] == 70)
    assert page.locator(f'canvas[data-layer="{wide}"]').count() == 14
    page.locator(".note button").first.click()
    page.wait_for_function(f"() => document.querySelectorAll('canvas[data-layer=\"{wide}\"]').length === 70")
    page.set_viewport_size({"width": 390, "height": 844})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_widget(pages, served):
    page = pages(served.url)
    assert number(page, "#widget-formula").endswith("= 4")
    page.fill("#widget-dilation", "3")
    assert number(page, "#widget-formula").endswith("/ 2⌋ + 1 = 2")
    page.click("#widget-step")
    assert "(0, 1) of 2 x 2" in number(page, "#widget-says")
    page.fill("#widget-size", "1")
    assert "does not fit" in number(page, "#widget-says")


def test_one_file_shows_the_same_numbers(pages, served, values, tmp_path):
    pictures = [served.examples.read(number) for number in (0, 1)]
    overlays = [{"saliency": np.ones((16, 16), np.float32)} for _ in pictures]
    (tmp_path / "page.html").write_text(one_file(served.network, pictures, overlays))
    page = pages((tmp_path / "page.html").as_uri())
    for at, own in enumerate(values):
        index = tuple(size // 2 for size in own.shape)
        choose(page, at, index)
        assert number(page, "#unit-value") == four_digits(own[index])
    assert all(url.startswith(("file:", "data:")) for url in pages.asked)


def test_large_networks_have_maps_but_no_numbers_in_a_file(pages, served, tmp_path, monkeypatch):
    monkeypatch.setattr("cnnjax.explorer.page.MAX_NUMBERS", 1)
    (tmp_path / "page.html").write_text(one_file(served.network, [served.examples.read(0)], [{}]))
    page = pages((tmp_path / "page.html").as_uri())
    choose(page, 1, (0, 0, 0))
    assert "too many numbers for a file" in page.locator("#unit-body").inner_text()
