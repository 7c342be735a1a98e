"""Text becomes activations, activations train artefacts.

`tokenize_texts` turns text into addressable token sequences, `ActivationStream` turns those into
shuffled activation batches that depend only on (seed, t), `write_shards` / `ShardReader` keep
them on disk, and `fit` is the one training loop of the house.

    >>> from interp.activations import ActivationStream, StreamConfig, tokenize_texts
    >>> tokens = tokenize_texts(model, "stories.jsonl")                          # doctest: +SKIP
    >>> stream = ActivationStream(model, "blocks.1.hook_resid_post", tokens,
    ...                           StreamConfig(batch_size=1024))                 # doctest: +SKIP
    >>> stream.batch(7)["blocks.1.hook_resid_post"].shape                        # doctest: +SKIP
    torch.Size([1024, 64])
"""

from interp.core.lazy import lazy

__all__, __getattr__, __dir__ = lazy(__name__)
