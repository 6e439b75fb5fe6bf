"""The maths of the model once more: slow, in float64 numpy, one record at a time.

Written for the tests from the published description, without a look at the code under
test: loops where that code has operators, and padding to the full length where that code
takes as little as it can.

Also small models to compare with.
"""

import numpy as np

from object2vec import EncoderConfig, ModelConfig, Object2Vec


def encoder(network, **changes):
    """A small encoder: 50 ids, at most 30 a sequence, vectors of 12."""
    values = {"vocab_size": 50, "token_embedding_dim": 7, "enc_dim": 12, "max_seq_len": 30}
    if network == "pooled_embedding":
        values["token_embedding_dim"] = 12
    return EncoderConfig(network, **{**values, **changes})


def model_of(*encoders, seed=3, **changes):
    """A random model; of one encoder twice, or of two."""
    first, second = encoders * 2 if len(encoders) == 1 else encoders
    return Object2Vec.random(ModelConfig((first, second), **changes), seed)


def some_sequences(count=40, *, vocab_size=50, longest=45, seed=0):
    """Sequences of lengths 0 to longest; ids with 0 among them."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, longest + 1, count)
    return [rng.integers(0, vocab_size, n).tolist() for n in lengths]


def weights_of(model, prefix):
    """float64 arrays by name, without the prefix."""
    weights = {k: w.numpy().astype(np.float64) for k, w in model.weights().items()}
    if model.config.tied_token_embedding_weight:
        weights["encoders.1.embedding"] = weights["encoders.0.embedding"]
    return {k.removeprefix(prefix): w for k, w in weights.items() if k.startswith(prefix)}


def encode_slowly(model, sequences, side=0, max_seq_len=None):
    config = model.config.encoders[side]
    weights = weights_of(model, f"encoders.{side}.")
    definition = {"pooled_embedding": pooled, "hcnn": hcnn, "bilstm": bilstm}[config.network]
    max_len = max_seq_len or config.max_seq_len
    return np.array([definition(ids[:max_len], weights, config, max_len) for ids in sequences])


def embed(ids, weights, config):
    """One row per id, the nearest one for an id without; zero for padding."""
    last = config.vocab_size - 1
    rows = [weights["embedding"][min(max(i, 0), last)] * (i != config.padding_id) for i in ids]
    return np.array(rows).reshape(len(ids), -1)


def pooled(ids, weights, config, max_len):
    num_tokens = sum(i != config.padding_id for i in ids)
    total = embed(ids, weights, config).sum(axis=0) if ids else np.zeros(config.enc_dim)
    return total / max(num_tokens, 1)


def hcnn(ids, weights, config, max_len):
    padded = list(ids) + [config.padding_id] * (max_len - len(ids))
    signal = embed(padded, weights, config)  # [T, E]
    width = config.cnn_filter_width
    border = width // 2 if config.cnn_padding is None else config.cnn_padding
    peaks = []
    for layer in range(config.layers):
        kernel = weights[f"convolutions.{layer}.weight"]  # [F, E, width]
        bias = weights[f"convolutions.{layer}.bias"]
        wide = np.pad(signal, ((border, border), (0, 0)))
        windows = [wide[t : t + width] for t in range(len(wide) - width + 1)]
        signal = np.array([np.einsum("we,few->f", window, kernel) + bias for window in windows])
        signal = np.maximum(signal, 0)
        peaks.append(signal.max(axis=0))
    return np.concatenate(peaks)


def bilstm(ids, weights, config, max_len):
    while ids and ids[-1] == config.padding_id:
        ids = ids[:-1]
    if all(i == config.padding_id for i in ids):
        return np.zeros(config.enc_dim)
    if config.reads_padding:
        ids = [*ids, *[config.padding_id] * (max_len - len(ids))]
    signal = embed(ids, weights, config)
    for layer in range(config.layers):
        ahead = lstm(signal, weights, f"forwards.{layer}")
        back = lstm(signal[::-1], weights, f"backwards.{layer}")[::-1]
        signal = np.concatenate([ahead, back], axis=1)
    return signal[[i != config.padding_id for i in ids]].max(axis=0)


def lstm(signal, weights, name):
    """Gates in the order i, f, g, o."""
    w_in, w_hidden = weights[f"{name}.weight_ih_l0"], weights[f"{name}.weight_hh_l0"]
    bias = weights[f"{name}.bias_ih_l0"] + weights[f"{name}.bias_hh_l0"]
    hidden = cell = np.zeros(w_hidden.shape[1])
    states = []
    for x in signal:
        i, f, g, o = np.split(w_in @ x + w_hidden @ hidden + bias, 4)
        cell = sigmoid(f) * cell + sigmoid(i) * np.tanh(g)
        hidden = sigmoid(o) * np.tanh(cell)
        states.append(hidden)
    return np.array(states)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def score_slowly(model, sequences0, sequences1):
    config = model.config
    weights = weights_of(model, "scorer.")
    scores = []
    for u, v in zip(
        encode_slowly(model, sequences0, 0), encode_slowly(model, sequences1, 1), strict=True
    ):
        parts = {"hadamard": [u * v], "concat": [u, v], "abs_diff": [abs(u - v)]}
        h = np.concatenate([p for name in config.comparator_list for p in parts[name]])
        for layer in range(config.mlp_layers):
            h = weights[f"hidden.{layer}.weight"] @ h + weights[f"hidden.{layer}.bias"]
            h = {"tanh": np.tanh, "relu": lambda h: np.maximum(h, 0), "linear": lambda h: h}[
                config.mlp_activation
            ](h)
        z = weights["output.weight"] @ h + weights["output.bias"]
        if config.output_layer == "softmax":
            z = np.exp(z) / np.exp(z).sum()
        scores.append(z)
    return np.array(scores)
