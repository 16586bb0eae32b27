from cmd_lightning.markdown import table


def test_table():
    assert table(("a", "b"), [(1, "x"), (None, 2.5)]) == "| a | b |\n| --- | --- |\n| 1 | x |\n|  | 2.5 |"
