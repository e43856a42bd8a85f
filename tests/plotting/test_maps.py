"""Pictures of activation maps: colours, titles and bars."""

import numpy as np

from v4d.plotting.maps import _bars, contact_sheet, overlaid


def test_red_is_for_a_class_and_blue_against_it_on_one_scale():
    contributions = np.zeros((2, 2, 2, 2), np.float32)
    contributions[0, 0, 0, 0], contributions[1, 1, 1, 1] = 4.0, -2.0
    frames = np.full((2, 2, 32, 32, 3), 128, np.uint8)
    pictures = overlaid(frames, contributions).astype(int)
    redness = pictures[..., 0] - pictures[..., 2]
    assert redness[0, 0, 4, 4] > 30 and redness[1, 1, 28, 28] < -20
    change = np.abs(pictures - 128).sum(-1)  # of a grey frame; the strongest colours are dark, not more red
    assert change[0, 0, 4, 4] > 1.5 * change[1, 1, 28, 28]
    assert not redness[0, 1].any() and not redness[1, 0].any()

    sheet = contact_sheet(frames, contributions, "title", np.array([[0.0, 0.5], [1.0, 1.5]]))
    bars = [axes.patches[0] for axes in sheet.axes if axes.patches]
    assert [bar.get_width() for bar in bars] == [4, -2]
    assert [bar.get_facecolor()[0] > bar.get_facecolor()[2] for bar in bars] == [True, False]
    titles = [axes.get_title("left") for axes in sheet.axes]
    assert titles == ["unit 1: +4.00", "0.00 s", "0.50 s", "unit 2: -2.00", "1.00 s", "1.50 s"]

    bars = _bars(np.array([4.0, -2.0]), current=0, width=40).astype(int)
    up, down = bars[5, 10], bars[22, 30]
    assert up[0] > up[2] and down[0] < down[2]
    assert (bars[30, 10] == 255).all() and (bars[5, 30] == 255).all()
