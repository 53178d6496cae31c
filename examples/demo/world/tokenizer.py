"""A byte-level BPE tokenizer over all domains in equal shares of bytes."""

from collections.abc import Iterator, Mapping

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from world.splits import Split

VOCABULARY = 4096
BYTES_PER_DOMAIN = 1_000_000
BOS, EOS, PAD = "<s>", "</s>", "<pad>"


def train_tokenizer(splits: Mapping[str, Split]) -> PreTrainedTokenizerFast:
    """Learn the merges on training text alone."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[BOS, EOS, PAD],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_equal_shares(splits), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        clean_up_tokenization_spaces=False,
    )


def _equal_shares(splits: Mapping[str, Split]) -> Iterator[str]:
    for domain in splits.values():
        left = BYTES_PER_DOMAIN
        for text in domain.main.values():
            if left <= 0:
                break
            left -= len(text.encode("utf-8"))
            yield text
