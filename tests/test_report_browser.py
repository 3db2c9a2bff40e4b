"""The report in a real browser, opened from disk: it is complete, and mouse, keyboard and telephone can use it."""

import pytest
from playwright.sync_api import Error, sync_playwright
from report_roots import make_root

from images.browser import NAMES, launch_browser
from report import write_report

DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        browser = launch_browser(playwright)
        if browser is None:
            pytest.skip(f"there is no browser here: neither {', '.join(NAMES)} on PATH nor Playwright's own")
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    root = make_root(tmp_path_factory.mktemp("report") / "a \"root\" with 'quotes' & ümlauts #1")
    return write_report(root).as_uri()


@pytest.fixture
def page(browser, address):
    page = browser.new_page(viewport=DESKTOP, offline=True)
    problems = []
    page.on("console", lambda message: problems.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("requestfailed", lambda request: problems.append(request.url))
    page.goto(address)
    yield page
    page.close()
    assert problems == []


def stages_shown(page):
    return page.eval_on_selector_all(
        ".cell .stage", "all => all.filter(one => one.offsetParent).map(one => one.dataset.stage)"
    )


def focused(page):
    return page.evaluate("document.activeElement.dataset.label || document.activeElement.id")


def test_it_is_complete_from_disk(page, browser):
    assert page.title().startswith("<script>")
    pictures = page.eval_on_selector_all("img", "all => all.map(one => one.complete && one.naturalWidth > 0)")
    assert len(pictures) > 20 and all(pictures)
    page.wait_for_function("document.querySelector('video').readyState > 0")
    assert page.eval_on_selector("video", "one => [one.videoWidth, one.error]") == [32, None]
    links = page.eval_on_selector_all("a[href], [data-plot]", "all => all.map(one => one.href || one.dataset.plot)")
    base = page.url
    other = browser.new_page(accept_downloads=True)
    for link in {page.evaluate("([link, base]) => new URL(link, base).href", [link, base]) for link in links if link}:
        try:
            other.goto(link)
        except Error as error:
            # What the browser does not show itself it saves: found all the same.
            assert "Download is starting" in str(error), link
    other.close()


def test_stages_are_chosen_and_blink(page):
    assert set(stages_shown(page)) == {"stage5_despike"}
    assert len(stages_shown(page)) == 12
    page.get_by_text("stage3", exact=True).first.click()
    assert set(stages_shown(page)) == {"stage3"}
    blink = page.locator("#blink")
    blink.click()
    page.wait_for_function("document.querySelector('input[name=stage]:checked').value == 'stage5_despike'")
    page.wait_for_function("document.querySelector('input[name=stage]:checked').value == 'stage3'")
    assert blink.get_attribute("aria-pressed") == "true"
    blink.click()
    shown = stages_shown(page)
    page.wait_for_timeout(900)
    assert stages_shown(page) == shown


def test_variants_bands_and_tasks_are_filtered(page):
    page.select_option("#variant", "fringe1d")
    page.select_option("#band", "2A")
    names = page.locator(".cell:visible").evaluate_all("all => all.map(one => one.dataset.label)")
    assert names == ["2A d1 fringe1d", "2A d2 fringe1d", "2A combined fringe1d"]
    page.select_option("#variant", "*")
    page.select_option("#band", "*")
    assert page.locator(".cell:visible").count() == 12
    # The list of tasks is open, since one has failed.
    page.fill("#filter", "DESPIKE failed")
    assert page.locator("#task-table tbody tr:visible").count() == 1
    assert page.locator("#count").text_content() == "1 of 5"
    page.fill("#filter", "")
    assert page.locator("#task-table tbody tr:visible").count() == 5


def test_a_cube_is_looked_at_with_the_mouse(page):
    page.get_by_role("button", name="1A d2: open").click()
    viewer = page.locator("#viewer")
    assert viewer.is_visible() and page.locator("#viewer-title").text_content() == "1A d2"
    assert page.locator("#viewer-notes li").count() == 2
    after = page.locator("#viewer-single").get_attribute("src")
    viewer.get_by_role("button", name="stage3").click()
    # The spike has not been removed yet, and the note of its removal is not there yet.
    assert page.locator("#viewer-single").get_attribute("src") != after
    assert page.locator("#viewer-notes li").count() == 1
    assert page.locator("#viewer-plot img").get_attribute("src").endswith("1A_Level3_ch1-short_s3d_nav.png")
    viewer.get_by_role("button", name="next cube").click()
    assert page.locator("#viewer-title").text_content() == "1A combined"
    viewer.get_by_role("button", name="close").click()
    assert viewer.is_hidden()


def test_everything_is_reached_by_the_keyboard(page):
    for _ in range(60):
        page.keyboard.press("Tab")
        if focused(page) == "1A d1":
            break
    assert focused(page) == "1A d1"
    for key, expected in (("ArrowRight", "1A d2"), ("ArrowDown", "1A d2 fringe1d"), ("ArrowLeft", "1A d1 fringe1d"),
                          ("ArrowUp", "1A d1"), ("ArrowUp", "1A d1")):  # fmt: skip
        page.keyboard.press(key)
        assert focused(page) == expected
    page.keyboard.press("Enter")
    title, numbers = page.locator("#viewer-title"), page.locator("#viewer-numbers")
    assert title.text_content() == "1A d1"
    assert "stage5_despike" in numbers.text_content()
    page.keyboard.press("ArrowDown")
    assert numbers.text_content().startswith("stage3/")
    page.keyboard.press("b")
    page.wait_for_function("document.getElementById('viewer-numbers').textContent.startsWith('stage5')")
    page.wait_for_function("document.getElementById('viewer-numbers').textContent.startsWith('stage3')")
    page.keyboard.press("b")
    page.keyboard.press("ArrowLeft")
    assert title.text_content() == "2A combined fringe1d"
    page.keyboard.press("Escape")
    assert page.locator("#viewer").is_hidden()
    page.wait_for_function("document.activeElement.dataset.label == '2A combined fringe1d'")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_on_a_telephone(page, scheme):
    page.set_viewport_size(PHONE)
    page.emulate_media(color_scheme=scheme)
    page.locator("summary").evaluate_all("all => all.forEach(one => one.parentElement.open = true)")
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    # Texts are legible: nothing below 12 pixels, and ink differs from paper.
    sizes = page.eval_on_selector_all(
        "main *, header *", "all => all.map(one => parseFloat(getComputedStyle(one).fontSize))"
    )
    assert min(sizes) >= 12
    ink, paper = page.evaluate("(style => [style.color, style.backgroundColor])(getComputedStyle(document.body))")
    brightness = [sum(map(int, colour[4:-1].split(","))) for colour in (ink, paper)]
    assert abs(brightness[0] - brightness[1]) > 450 and (brightness[0] < brightness[1]) == (scheme == "light")
    page.locator(".cell").first.click()
    box = page.locator("#viewer").bounding_box()
    assert box["x"] >= 0 and box["x"] + box["width"] <= PHONE["width"]
    assert page.locator("#viewer").evaluate("one => one.scrollWidth - one.clientWidth") <= 0


def test_without_script_every_stage_is_shown(browser, address):
    context = browser.new_context(java_script_enabled=False, viewport=PHONE)
    page = context.new_page()
    page.goto(address)
    assert page.locator(".stage:visible").count() == 24
    assert page.locator("#controls").is_hidden()
    context.close()
