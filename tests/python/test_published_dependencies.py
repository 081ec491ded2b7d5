"""The published library: jobs that wait for jobs, and jobs that wait for a machine that is large enough."""

from collections.abc import Iterator

import pytest
from requests import HTTPError
from whatsnext import EmptyQueueError, Project, Server

from support.command_line import CommandLine
from support.jobs import added, statuses, through
from support.servers import RunningServer


def drained(project: Project) -> Iterator[str]:
    """The names of the jobs that are given out until the queue says that it is empty."""
    while True:
        try:
            yield project.fetch_job().name
        except EmptyQueueError:
            return


def test_a_job_waits_until_all_that_it_depends_on_is_completed(
    project: Project, elsewhere: Project, there: Server
) -> None:
    left, right, child = added(project, "left", "right", "child")
    through(there, child).set_depends_to([left, right])
    child.set_priority_to(100)
    assert list(drained(elsewhere)) == ["left", "right"], "the child is not ready, however urgent it is"
    left.set_status("COMPLETED")
    assert list(drained(project)) == [], "one of its two parents is still running"
    through(there, right).set_status("COMPLETED")
    fetched = project.fetch_job()
    assert fetched.name == "child"
    assert fetched.depends == {str(left.id): "left", str(right.id): "right"}, "ids and names of what it depended on"


def test_the_queue_shows_what_a_job_depends_on(project: Project, elsewhere: Project) -> None:
    parent, child = added(project, "parent", "child")
    child.set_depends_to([parent])
    assert [job["depends"] for job in elsewhere.queue] == [{}, {str(parent.id): "parent"}]


def test_dependencies_are_replaced_and_taken_away(project: Project, elsewhere: Project) -> None:
    first, second, child = added(project, "first", "second", "child")
    child.set_depends_to([first])
    child.set_depends_to([second])
    assert elsewhere.queue[2]["depends"] == {str(second.id): "second"}
    child.set_depends_to([])
    assert list(drained(elsewhere)) == ["first", "second", "child"]


def test_what_depends_on_a_failed_job_is_blocked_all_the_way_down(
    project: Project, elsewhere: Project, second: RunningServer
) -> None:
    parent, child, grandchild = added(project, "parent", "child", "grandchild")
    child.set_depends_to([parent])
    grandchild.set_depends_to([child])
    elsewhere.fetch_job().set_status("FAILED")
    assert statuses(second, project) == {"parent": "FAILED", "child": "BLOCKED", "grandchild": "BLOCKED"}
    assert list(drained(project)) == []


def test_a_retry_from_the_command_line_unblocks_it(
    project: Project, elsewhere: Project, other_cli: CommandLine, first: RunningServer
) -> None:
    parent, child, grandchild = added(project, "parent", "child", "grandchild")
    child.set_depends_to([parent])
    grandchild.set_depends_to([child])
    project.fetch_job().set_status("FAILED")
    other_cli.run("jobs", "retry", str(parent.id))
    assert statuses(first, project) == {"parent": "PENDING", "child": "PENDING", "grandchild": "PENDING"}
    for name in ("parent", "child", "grandchild"):
        job = elsewhere.fetch_job()
        assert job.name == name, "each is given out once the one before it is completed"
        job.set_status("COMPLETED")


def test_a_job_that_depends_on_a_failed_one_is_blocked_at_once(
    project: Project, there: Server, second: RunningServer
) -> None:
    parent, late = added(project, "parent", "late")
    project.fetch_job().set_status("FAILED")
    through(there, late).set_depends_to([parent])
    assert statuses(second, project) == {"parent": "FAILED", "late": "BLOCKED"}
    through(there, parent).set_status("COMPLETED")
    assert statuses(second, project) == {"parent": "COMPLETED", "late": "PENDING"}


def test_a_circle_is_refused_and_changes_nothing(project: Project, elsewhere: Project, there: Server) -> None:
    one, two, three = added(project, "one", "two", "three")
    two.set_depends_to([one])
    three.set_depends_to([two])
    for circle in ([three], [one]):
        with pytest.raises(HTTPError, match=r"^400 "):
            through(there, one).set_depends_to(circle)
    assert [job["depends"] for job in elsewhere.queue] == [{}, {str(one.id): "one"}, {str(two.id): "two"}]


def test_a_job_that_others_wait_for_is_not_removed(project: Project, elsewhere: Project) -> None:
    parent, child = added(project, "parent", "child")
    child.set_depends_to([parent])
    assert not elsewhere.remove_job(parent.id), "a job waits for it"
    assert elsewhere.remove_job(child.id)
    assert elsewhere.remove_job(parent.id)


def test_clearing_takes_the_blocked_along_with_what_they_wait_for(project: Project, elsewhere: Project) -> None:
    parent, child = added(project, "parent", "child")
    child.set_depends_to([parent])
    assert elsewhere.clear_queue() == 2
    assert project.queue == []


def test_a_job_is_given_only_to_a_client_with_enough_cpus(
    project: Project, elsewhere: Project, other_cli: CommandLine
) -> None:
    other_cli.run("tasks", "create", "large", "--cpu", "4")
    added(project, "needs four", task="large", priority=10)
    added(project, "needs one")
    assert elsewhere.fetch_job(available_cpu=2).name == "needs one", "the more urgent job does not fit"
    with pytest.raises(EmptyQueueError):
        elsewhere.fetch_job(available_cpu=3)
    assert project.fetch_job(available_cpu=4).name == "needs four"


def test_a_job_is_given_only_to_a_client_with_enough_accelerators(
    project: Project, elsewhere: Project, other_cli: CommandLine
) -> None:
    other_cli.run("tasks", "create", "on accelerators", "--accelerators", "2")
    added(project, "needs two", task="on accelerators")
    with pytest.raises(EmptyQueueError):
        project.fetch_job(available_cpu=64, available_accelerators=1)
    assert elsewhere.fetch_job(available_cpu=64, available_accelerators=2).name == "needs two"


def test_without_a_filter_any_job_is_given(project: Project, elsewhere: Project, cli: CommandLine) -> None:
    cli.run("tasks", "create", "huge", "--cpu", "4096", "--accelerators", "512")
    added(project, "needs much", task="huge")
    assert elsewhere.fetch_job().name == "needs much"
