"""Close codes."""

from __future__ import annotations

import pytest

from ws_support.close_codes import CloseCode, may_be_sent


@pytest.mark.parametrize("code", [1000, 1001, 1002, 1003, 1007, 1014, 3000, 3008, 3999, 4000, 4999])
def test_codes_that_the_rfc_allows_may_be_sent(code):
    assert may_be_sent(code)


@pytest.mark.parametrize(
    "code", [-1, 0, 999, 1004, 1005, 1006, 1015, 1016, 2000, 2999, 5000, 65536]
)
def test_reserved_and_unknown_codes_may_not(code):
    assert not may_be_sent(code)


def test_a_code_is_its_number():
    assert CloseCode.TIMEOUT == 3008
    assert f"{CloseCode.MESSAGE_TOO_BIG:d}" == "1009"
