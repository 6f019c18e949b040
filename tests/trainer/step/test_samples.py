import pytest
from toys import toy_decoder, toy_tokenizer

from trainer.step.samples import Sample, sample_texts


def samples(
    seed: int = 0, prompts: tuple[str, ...] = ("To be", "or"), tokens: int = 6
) -> list[Sample]:
    return list(
        sample_texts(
            toy_decoder(), toy_tokenizer(), prompts, max_new_tokens=tokens, seed=seed,
            poll=lambda: None,
        )
    )  # fmt: skip


def test_each_prompt_gets_a_continuation_without_itself() -> None:
    first, second = samples()
    assert (first.prompt, second.prompt) == ("To be", "or")
    for sample in (first, second):
        assert sample.text
        assert not sample.text.startswith(sample.prompt)


def test_equal_seeds_give_equal_texts_and_other_seeds_others() -> None:
    assert samples(seed=3) == samples(seed=3)
    assert samples(seed=3) != samples(seed=4)


def test_two_equal_prompts_get_texts_of_their_own() -> None:
    first, second = samples(prompts=("To be", "To be"))
    assert first.text != second.text


def test_a_prompt_longer_than_the_context_is_cut_to_its_end() -> None:
    (sample,) = samples(prompts=("be or not " * 300,), tokens=3)
    assert len(sample.text) < 40


def test_polling_at_each_token_may_stop_it() -> None:
    polls = []

    def stop_at_third() -> None:
        polls.append(None)
        if len(polls) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(
            sample_texts(
                toy_decoder(), toy_tokenizer(), ["To be"], max_new_tokens=9, seed=0,
                poll=stop_at_third,
            )
        )  # fmt: skip
