import multiprocessing
import time

from cmd_lightning.data.watchdog import Watchdog


def work(seconds):
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def ends(what):
    process = multiprocessing.get_context("fork").Process(target=what)
    process.start()
    process.join(30)
    return process.exitcode


def test_what_never_ends_ends_the_process(capfd):
    def never():
        watchdog = Watchdog(0.2)
        with watchdog.watch("a.tar 0001"):
            work(0.05)
        with watchdog.watch("a.tar 0002"):
            work(60)

    assert ends(never) == 1
    assert capfd.readouterr().err.startswith("a.tar 0002: takes more than 0.2 seconds to decode")


def test_much_that_ends_and_waiting_end_nothing():
    def much():
        watchdog = Watchdog(0.4)
        for _ in range(8):
            with watchdog.watch("a"):
                work(0.1)
        with watchdog.watch("b"):
            time.sleep(0.8)
        work(0.8)  # of nobody's clip

    assert ends(much) == 0
