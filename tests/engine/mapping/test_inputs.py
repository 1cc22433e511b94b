"""The names of the results of images."""

from imggen.engine.mapping.inputs import result_names


def test_results_are_named_as_their_images() -> None:
    assert result_names(["a/x.jpg", "b/x.png", "../y.webp"], [".png"]) == ["a/x", "b/x", "y"]
    assert result_names(["/a/x.png", "//b/x.png", "///c/x.png"], [".png"]) == ["a/x", "b/x", "c/x"]


def test_no_result_overwrites_another() -> None:
    assert result_names(["x.jpg", "x.png", "y.png"], [".png"]) == ["x.jpg", "x.png", "y"]
    # The result of x.png would have the name of that of x.png.png.
    assert result_names(["x.jpg", "x.png", "x.png.png"], [".png"]) == ["x.jpg", "x.png", "x.png.png"]
    # The overlay of x would have the name of the mask of x-overlay.
    names = ["x.png", "x-overlay.png"]
    assert result_names(names, [".png", "-overlay.png"]) == names and result_names(names, [".png"]) == [
        "x",
        "x-overlay",
    ]
