"""The study in its database: what is handed out, counted and read back."""

from __future__ import annotations

import optuna
import pytest
from studies import (
    BASELINE,
    PLAN,
    POSTGRES,
    ask_all,
    large_space,
    make_study,
    measured,
    small_space,
)

from gcsearch.architecture import Architecture, Insertion
from gcsearch.config import SearchConfig, load_config
from gcsearch.errors import StudyError, UnknownNameError
from gcsearch.evaluation import Evaluation
from gcsearch.plan import Speeds, make_plan
from gcsearch.study import SearchStudy, list_studies, newest_study, open_storage
from gcsearch.study.asking import MAX_DUPLICATES_IN_A_ROW


@pytest.mark.skipif(not POSTGRES, reason="GCSEARCH_TEST_POSTGRES names no PostgreSQL database")
def test_postgresql_url_uses_psycopg():
    storage = open_storage(POSTGRES)
    storage.remove_session()
    storage.engine.dispose()
    assert storage.engine.driver == "psycopg"


def test_first_trial_is_the_baseline(study):
    proposal = study.ask(large_space())
    assert (proposal.number, proposal.architecture) == (0, BASELINE)


def test_what_is_fixed_is_read_back(study):
    again = SearchStudy(study.storage, study.name)
    assert again.record == study.record
    assert again.plan == PLAN
    assert load_config(again.record.config) == SearchConfig(backbone="tiny")


def test_no_architecture_is_handed_out_twice(study):
    architectures = ask_all(study, large_space(), 15)
    assert len({a.id for a in architectures}) == 15


def test_running_architectures_are_not_handed_out_again(study):
    proposals = [study.ask(small_space()) for _ in range(4)]
    assert len({p.architecture.id for p in proposals}) == 4
    assert study.ask(small_space()) is None


def test_what_failed_for_good_is_not_handed_out_again(study):
    proposals = [study.ask(small_space()) for _ in range(4)]
    for proposal in proposals:
        study.fail(proposal.number, "diverged")
    assert study.ask(small_space()) is None


def test_small_space_ends(study):
    assert len(ask_all(study, small_space(), 100)) == 4
    assert study.ask(small_space()) is None


def test_duplicate_is_told_the_known_values(study):
    ask_all(study, small_space(), 100)
    rows = study.rows()
    study._study.enqueue_trial(small_space().encode(rows[1].architecture))
    assert study.ask(small_space()) is None
    row = study.rows()[len(rows)]
    assert (row.state, row.duplicate_of, row.evaluation) == ("COMPLETE", 1, None)
    trials = study._study.get_trials()
    assert trials[row.number].values == trials[1].values


def test_duplicate_of_a_running_trial_fails_and_does_not_count(study):
    space = large_space()
    ask_all(study, space, 1)
    running = study.ask(space)
    study._study.enqueue_trial(space.encode(running.architecture))
    other = study.ask(space)
    row = study.rows()[running.number + 1]
    assert other.architecture != running.architecture
    assert (row.state, row.duplicate_of, row.counts) == ("FAIL", running.number, False)


def test_few_duplicates_are_asked_for_in_a_row(study):
    ask_all(study, small_space(), 100)
    duplicates = [row for row in study.rows() if row.duplicate_of is not None]
    assert len(duplicates) <= MAX_DUPLICATES_IN_A_ROW * 5


def test_done_counts_neither_baseline_nor_duplicates_nor_retries(study):
    space = large_space()
    ask_all(study, space, 2)
    study._study.enqueue_trial(space.encode(study.rows()[1].architecture))
    study.fail(study.ask(space).number, "noisy", retry=True)
    assert study.n_done() == 1
    study.fail(study.ask(space).number, "diverged")
    assert study.n_done() == 2


def test_complete_trial_reads_back(study):
    space = large_space()
    ask_all(study, space, 1)
    proposal = study.ask(space)
    evaluation = measured(proposal.architecture, top1=0.625, ratio=1.25)
    study.complete(proposal.number, evaluation)
    assert study.rows()[1].evaluation == evaluation
    assert study._study.get_trials()[1].values == [0.625, 1.25]


def test_baseline_is_told_as_exactly_one(study):
    proposal = study.ask(large_space())
    study.complete(proposal.number, measured(BASELINE, ratio=1.003))
    assert study._study.get_trials()[0].values == [0.5, 1.0]
    assert study.baseline().evaluation.latency.ratio == 1.003


def test_evaluation_without_latency_cannot_end_a_trial(study):
    number = study.ask(large_space()).number
    without = Evaluation(**{**vars(measured(BASELINE)), "latency": None})
    with pytest.raises(StudyError, match="without a latency"):
        study.complete(number, without)


def test_failure_that_may_pass_can_be_asked_again(study):
    proposals = [study.ask(small_space()) for _ in range(4)]
    study.fail(proposals[2].number, "noisy", retry=True)
    again = study.ask(small_space())
    assert again.architecture == proposals[2].architecture
    assert study.rows()[2].reason == "noisy"


def test_baseline_whose_failure_may_pass_is_asked_next(study):
    study.fail(study.ask(large_space()).number, "noisy", retry=True)
    assert study.ask(large_space()).architecture == BASELINE


def test_requeued_architecture_comes_first(study):
    space = large_space()
    ask_all(study, space, 3)
    interrupted = study.ask(space)
    study.requeue(interrupted.number, "interrupted")
    again = study.ask(space)
    assert again.architecture == interrupted.architecture
    assert again.number > interrupted.number


def test_checks_are_kept_and_replaced(study):
    first, second = measured(BASELINE, top1=0.25), measured(BASELINE, top1=0.75)
    study.add_check(first)
    study.add_check(second)
    assert SearchStudy(study.storage, study.name).checks() == [second]


def test_changed_plan_outlives_the_object(study):
    longer = make_plan(load_config({"plan": {"trials": 9}}).plan, Speeds(9, 9, 9, 1, 1), n_val=9,
                       n_test=9)  # fmt: skip
    study.change_plan(longer)
    assert SearchStudy(study.storage, study.name).plan == longer


def test_other_baseline_weights_are_refused_once_trials_inherited_them(study):
    study.set_baseline("aaa")
    study.set_baseline("bbb")  # nothing has inherited them yet
    ask_all(study, large_space(), 1)
    study.set_baseline("bbb")
    with pytest.raises(StudyError, match="would not compare"):
        study.set_baseline("aaa")


def test_study_that_another_process_has_just_made_is_gone_on_with(study, storage):
    ask_all(study, large_space(), 2)
    again, is_new = SearchStudy.create_or_load(storage, study.name, study.record)
    assert not is_new and again.rows() == study.rows()


def test_two_studies_in_one_database_do_not_mix(study):
    other = make_study(study.storage)
    ask_all(study, large_space(), 3)
    ask_all(other, small_space(), 1)
    assert (study.n_done(), other.n_done()) == (2, 0)
    assert {study.name, other.name} <= set(list_studies(study.storage))
    assert newest_study(study.storage) == other.name


def test_name_is_taken_once(study):
    with pytest.raises(StudyError, match="exists already; choose another --study"):
        make_study(study.storage, study.name)


def test_unknown_study_names_the_near_one(sqlite_url):
    study = make_study(open_storage(sqlite_url), "cifar-r50")
    with pytest.raises(UnknownNameError, match="did you mean 'cifar-r50'"):
        SearchStudy(study.storage, "cifar-r5O")


def test_foreign_study_is_refused(sqlite_url):
    storage = open_storage(sqlite_url)
    optuna.create_study(storage=storage, study_name="theirs")
    with pytest.raises(StudyError, match="not made by gcsearch"):
        SearchStudy(storage, "theirs")


def test_study_cut_short_while_it_was_made_is_made_anew(sqlite_url):
    storage = open_storage(sqlite_url)
    optuna.create_study(storage=storage, study_name="mine", directions=["maximize", "minimize"])
    assert make_study(storage, "mine").rows() == []


def test_insertions_survive_the_database(study):
    space = large_space()
    wanted = Architecture("tiny", (Insertion("layer3.0", ratio=1 / 8, pooling="avg"),))
    ask_all(study, space, 1)
    study._study.enqueue_trial(space.encode(wanted))
    assert study.ask(space).architecture == wanted
    assert study.rows()[1].architecture == wanted
