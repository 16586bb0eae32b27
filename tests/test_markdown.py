from cmd_lightning.markdown import aligned, table


def test_table():
    assert table(("a", "b"), [(1, "x"), (None, 2.5)]) == "| a | b |\n| --- | --- |\n| 1 | x |\n|  | 2.5 |"


def test_columns_are_padded_to_one_width():
    text = table(("model", "distance"), [("**Mine**", "3.21 ± 0.5"), (None, "x")]) + "\n\nAbout | it."
    assert aligned(text).splitlines() == [
        "| model    | distance   |",
        "| -------- | ---------- |",
        "| **Mine** | 3.21 ± 0.5 |",
        "|          | x          |",
        "",
        "About | it.",
    ]
    assert aligned("No table.") == "No table."
