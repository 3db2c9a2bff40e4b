"""The manners of commands: errors in one sentence, Ctrl-C without a traceback, notes and warnings."""

import os
import signal

import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from command_line import ArgumentParser, run_command
from errors import OptionError


def test_a_status_goes_through_and_none_is_success():
    assert run_command(lambda argv: 3) == 3
    assert run_command(lambda argv: None) == 0


def test_a_command_has_one_thread_and_leaves_the_setting_as_it_was():
    def threads(argv=None):
        return max(library["num_threads"] for library in threadpool_info())

    with threadpool_limits(2):
        assert run_command(threads) == 1
        assert threads() == 2


def test_bad_input_is_one_sentence_and_status_2(capsys):
    def command(argv):
        raise OptionError("nsigma is -1; it must be positive")

    assert run_command(command) == 2
    assert capsys.readouterr() == ("", "error: nsigma is -1; it must be positive\n")


def test_ctrl_c_ends_a_command_with_one_word(capsys):
    def command(argv):
        os.kill(os.getpid(), signal.SIGINT)

    assert run_command(command) == 130
    assert capsys.readouterr() == ("", "interrupted\n")


def test_notes_and_warnings_are_told_apart(capsys):
    assert run_command(lambda argv: {"notes": ["4 dithers"], "warnings": ["little sky"]}) == 0
    assert capsys.readouterr() == ("4 dithers\n", "warning: little sky\n")


@pytest.mark.parametrize("flag", ["--skip_steps", "--skip-steps"])
def test_flags_are_taken_in_both_spellings(flag):
    parser = ArgumentParser()
    parser.add_flag("skip_steps")
    assert parser.parse_args([flag, "flat"]).skip_steps == "flat"
