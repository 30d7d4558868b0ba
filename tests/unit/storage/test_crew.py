"""The crew: answers, errors, stops, deaths; and what its processes share."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable

import pytest

from tierd.errors import Interrupted, NotFound, StorageError
from tierd.storage.control import Unlimited
from tierd.storage.posix.crew import Answer, Crew, Job
from tierd.storage.posix.limits import Board


class Calls:
    """A worker made from a function."""

    def __init__(self, work: Callable[[Job], Answer]) -> None:
        self.handle = work


def run(work: Callable[[Job], Answer], jobs: list[Job], processes: int = 2, board: Board | None = None) -> list[Answer]:
    answers: list[Answer] = []
    board = board or Board(processes, None)
    with Crew(processes, board, lambda number: Calls(work)) as crew:
        crew.run(iter(jobs), answers.append, Unlimited())
    return answers


def test_every_job_is_answered_once() -> None:
    assert sorted(run(lambda job: job[0] * 2, [(n,) for n in range(1000)])) == [n * 2 for n in range(1000)]


def test_messages_larger_than_any_pipe_pass_in_both_directions() -> None:
    jobs: list[Job] = [(bytes([n]) * 3_000_000,) for n in range(8)]
    assert sorted(run(lambda job: job[0], jobs)) == [job[0] for job in jobs]


def test_an_error_of_a_worker_arrives_with_its_class_and_hint() -> None:
    def work(job: Job) -> Answer:
        if job[0] == 7:
            raise NotFound("no seven", hint="Take another.")

    with pytest.raises(NotFound, match="no seven") as caught:
        run(work, [(n,) for n in range(100)])
    assert caught.value.hint == "Take another."


def test_a_worker_that_is_killed_is_noticed() -> None:
    def work(job: Job) -> Answer:
        if job[0] == 5:
            os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(StorageError, match="ended unexpectedly"):
        run(work, [(n,) for n in range(100)])


def test_what_was_finished_before_a_stop_is_still_given() -> None:
    class Stop(Unlimited):
        def checkpoint(self, name: str = "") -> None:
            raise Interrupted("now")

    def work(job: Job) -> Answer:
        time.sleep(0.05)
        return job[0]

    answers: list[Answer] = []
    with Crew(2, Board(2, None), lambda number: Calls(work)) as crew, pytest.raises(Interrupted):
        crew.run(((n,) for n in range(1000)), answers.append, Stop())
    assert 1 <= len(answers) <= 4


def test_jobs_added_by_an_answer_are_done_too() -> None:
    seen: list[Answer] = []
    with Crew(2, Board(2, None), lambda number: Calls(lambda job: job[0])) as crew:

        def take(answer: Answer) -> None:
            seen.append(answer)
            if answer < 100:
                crew.add((answer + 100,))

        crew.run(((n,) for n in range(10)), take, Unlimited())
    assert sorted(seen) == [*range(10), *range(100, 110)]


def test_counters_of_all_processes_are_reported() -> None:
    board = Board(2, None)
    control = Unlimited()

    class Counting:
        def __init__(self, number: int) -> None:
            self.number = number

        def handle(self, job: Job) -> Answer:
            board.count(self.number, 10, 1, moved=3)

    with Crew(2, board, Counting) as crew:
        crew.run(((n,) for n in range(50)), lambda answer: None, control)
        assert board.totals() == (500, 50, 150)
    assert (control.bytes, control.files) == (500, 50)


def test_the_limit_is_shared_by_all_processes() -> None:
    board = Board(2, 1_000_000)

    def work(job: Job) -> Answer:
        board.throttle(50_000)

    began = time.monotonic()
    run(work, [(n,) for n in range(10)], board=board)
    assert 0.4 < time.monotonic() - began < 20


def test_a_limit_that_changes_holds_for_every_process_at_once() -> None:
    board = Board(2, 1_000)

    def work(job: Job) -> Answer:
        board.throttle(50_000)

    board.limit(1_000_000)
    began = time.monotonic()
    run(work, [(n,) for n in range(10)], board=board)
    assert 0.4 < time.monotonic() - began < 20
    free = Board(2, 1_000)
    free.limit(None)
    free.throttle(10**12)


def test_no_process_is_left_behind() -> None:
    pids = set(run(lambda job: os.getpid(), [(n,) for n in range(20)]))
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
