"""Small Keras models, one for each kind of layer, with seeded random weights: what people export.

Each builder returns a model of at most a few thousand weights with scores (batch, 5); `inputs_for` makes its inputs.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: Entries of the tables in which models with whole numbers as inputs look these up.
TOKENS = 11


def dense_gelu() -> Any:
    import keras

    return _sequence((12,), keras.layers.Dense(16, activation="gelu"), keras.layers.Dense(9, activation="silu"))


def layer_normalization() -> Any:
    import keras

    layers = keras.layers
    return _sequence(
        (6, 8), layers.LayerNormalization(), layers.Dense(10), layers.LayerNormalization(), layers.Flatten()
    )


def lstm() -> Any:
    """Forwards, backwards, and with a state that another layer hands on."""
    import keras

    layers = keras.layers
    start = keras.Input((7, 6))
    x, hidden, cell = layers.LSTM(6, return_sequences=True, return_state=True)(start)
    x = layers.LSTM(6, return_sequences=True, go_backwards=True)(x, initial_state=[hidden, cell])
    return keras.Model(start, layers.Dense(5)(layers.LSTM(12, unroll=True)(x)))


def gru() -> Any:
    import keras

    layers = keras.layers
    steps = layers.TimeDistributed(layers.Conv1D(3, 2))
    return _sequence(
        (7, 6, 2),
        steps,
        layers.Reshape((7, 15)),
        layers.GRU(8, return_sequences=True),
        layers.GRU(6, reset_after=False),
    )


def simple_rnn() -> Any:
    import keras

    layers = keras.layers
    cells = layers.RNN([layers.LSTMCell(5), layers.GRUCell(4)], return_sequences=True)
    return _sequence((7, 6), layers.SimpleRNN(8, return_sequences=True), cells, layers.SimpleRNN(6, activation="relu"))


def bidirectional() -> Any:
    """Both directions joined and added; an Embedding whose zeros are masked in front."""
    import keras

    layers = keras.layers
    return _sequence(
        (7,),
        layers.Embedding(TOKENS, 6, mask_zero=True),
        layers.Bidirectional(layers.LSTM(5, return_sequences=True)),
        layers.Bidirectional(layers.GRU(4), merge_mode="sum"),
        dtype="int32",
    )


def conv1d() -> Any:
    import keras

    layers = keras.layers
    return _sequence(
        (16, 4),
        layers.Conv1D(6, 3, padding="causal", dilation_rate=2, activation="relu"),
        layers.MaxPooling1D(2),
        layers.Conv1D(8, 3, strides=2, padding="same", activation="elu"),
        layers.SeparableConv1D(6, 3),
        layers.GlobalAveragePooling1D(),
    )


def convolutional_lstm() -> Any:
    import keras

    layers = keras.layers
    return _sequence(
        (3, 5, 5, 2),
        layers.ConvLSTM2D(3, 3, padding="same", return_sequences=True),
        layers.ConvLSTM2D(2, 3),
        layers.Flatten(),
    )


def conv3d() -> Any:
    import keras

    layers = keras.layers
    return _sequence(
        (6, 6, 6, 2),
        layers.Conv3D(4, 3, padding="same", activation="relu"),
        layers.AveragePooling3D(2),
        layers.Conv3D(5, 2, activation="tanh"),
        layers.GlobalMaxPooling3D(),
    )


def transposed() -> Any:
    """Transposed convolutions in one, two and three dimensions, one with more output than its inputs reach."""
    import keras

    layers = keras.layers
    start = keras.Input((4, 4, 3))
    x = layers.Conv2DTranspose(5, 3, strides=2, padding="same", activation="relu")(start)
    x = layers.Conv2DTranspose(4, 2, strides=3, output_padding=1, use_bias=False)(x)
    y = layers.Conv1DTranspose(3, 3, strides=2, padding="same")(layers.Reshape((24, 96))(x))
    z = layers.Conv3DTranspose(2, 2, strides=2)(layers.Reshape((2, 2, 4, 9))(y))
    x, z = layers.GlobalAveragePooling2D()(x), layers.Flatten()(z)
    return keras.Model(start, layers.Dense(5)(layers.Concatenate()([x, z])))


def embedding() -> Any:
    import keras

    layers = keras.layers
    return _sequence(
        (9,),
        layers.Embedding(TOKENS, 8),
        layers.Conv1D(6, 3, activation="relu"),
        layers.GlobalMaxPooling1D(),
        dtype="int32",
    )


def preprocessing() -> Any:
    """Normalization, adapted, beside categories as counts, as one-hot and as buckets with an embedding."""
    import keras

    layers = keras.layers
    normalization = layers.Normalization()
    normalization.adapt(np.random.default_rng(0).normal(1, 3, (40, 6)).astype(np.float32))
    start = keras.Input((6,))
    numbers = layers.Dense(7, activation="relu")(normalization(start))
    categories = layers.Rescaling(2.0, 4.0)(start)
    counts = layers.CategoryEncoding(TOKENS, output_mode="count")(keras.ops.clip(categories, 0, TOKENS - 1))
    hot = layers.CategoryEncoding(4, output_mode="one_hot")(keras.ops.clip(start[:, :1] + 2, 0, 3))
    buckets = layers.Flatten()(layers.Embedding(4, 3)(layers.Discretization([-1.0, 0.0, 1.0])(start)))
    return keras.Model(start, layers.Dense(5)(layers.Concatenate()([numbers, counts, hot, buckets])))


def nested() -> Any:
    """A Sequential model in a Functional one, which is called twice by a third."""
    import keras

    layers = keras.layers
    inner = keras.Sequential([keras.Input((8,)), layers.Dense(6, activation="relu"), layers.Dense(8)], name="inner")
    middle = keras.Input((8,))
    block = keras.Model(middle, layers.Add()([layers.BatchNormalization()(inner(middle)), middle]), name="block")
    start = keras.Input((8,))
    return keras.Model(start, layers.Dense(5)(layers.ReLU()(block(block(start)))))


def two_inputs() -> Any:
    import keras

    layers = keras.layers
    image, tokens = keras.Input((8, 8, 3), name="image"), keras.Input((5,), dtype="int32", name="tokens")
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(6, 3, activation="relu")(image))
    y = layers.GlobalAveragePooling1D()(layers.Embedding(TOKENS, 6)(tokens))
    return keras.Model([image, tokens], layers.Dense(5)(layers.Multiply()([x, y])))


def separable() -> Any:
    import keras

    layers = keras.layers
    return _sequence(
        (10, 10, 4),
        layers.SeparableConv2D(6, 3, depth_multiplier=2, padding="same", activation="relu"),
        layers.DepthwiseConv2D(3, strides=2, padding="same", depth_multiplier=2),
        layers.Conv2D(8, 3, groups=4, activation="leaky_relu"),
        layers.GlobalAveragePooling2D(),
    )


def shared_batch_norm() -> Any:
    """A convolution and its batch-norm that run twice, and a batch-norm without scale or centre."""
    import keras

    layers = keras.layers
    start = keras.Input((8, 8, 4))
    conv, norm = layers.Conv2D(4, 3, padding="same", use_bias=False), layers.BatchNormalization()
    x = layers.ReLU()(norm(conv(start)))
    x = layers.PReLU(shared_axes=(1, 2))(norm(conv(x)))
    x = layers.BatchNormalization(scale=False, center=False)(layers.Conv2D(6, 1)(x))
    return keras.Model(start, layers.Dense(5)(layers.GlobalMaxPooling2D()(x)))


def attention() -> Any:
    """Attention of several heads, and of grouped queries, with a causal mask."""
    import keras

    layers = keras.layers
    start = keras.Input((6, 8))
    x = layers.LayerNormalization(rms_scaling=False)(start + layers.MultiHeadAttention(2, 4)(start, start))
    x = x + layers.GroupQueryAttention(4, 4, 2)(x, x, use_causal_mask=True)
    return keras.Model(start, layers.Dense(5)(layers.GlobalAveragePooling1D()(x)))


def normalizations() -> Any:
    """Normalization over groups, over the unit sphere, by the root of the mean square, and of a kernel."""
    import keras

    layers = keras.layers
    return _sequence(
        (6, 6, 4),
        layers.SpectralNormalization(layers.Conv2D(8, 3)),
        layers.GroupNormalization(4),
        layers.UnitNormalization(axis=-1),
        layers.Conv2D(6, 2, activation="relu"),
        layers.RMSNormalization(),
        layers.Flatten(),
    )


MODELS: dict[str, Callable[[], Any]] = {
    build.__name__: build
    for build in (
        dense_gelu,
        layer_normalization,
        lstm,
        gru,
        simple_rnn,
        bidirectional,
        conv1d,
        convolutional_lstm,
        conv3d,
        transposed,
        embedding,
        preprocessing,
        nested,
        two_inputs,
        separable,
        shared_batch_norm,
        attention,
        normalizations,
    )
}


def built(name: str) -> Any:
    """Return a model of `MODELS` with seeded weights, none of which has the value that Keras starts it with."""
    import keras

    from bitswap_onnx.converters.keras_setup import quiet

    with quiet():
        keras.utils.set_random_seed(0)
        model = MODELS[name]()
    rng = np.random.default_rng(1)
    for variable in model.variables:
        if variable.dtype == "float32":
            low = 0.3 if variable.name in ("gamma", "moving_variance", "variance") else -0.7
            variable.assign(rng.uniform(low, low + 1.4, variable.shape).astype(np.float32))
    for layer in model.layers:
        if isinstance(layer, keras.layers.Normalization):
            layer.finalize_state()  # it computes with copies of its variables
    return model


def inputs_for(model: Any, count: int, seed: int = 2) -> list[NDArray[Any]]:
    """Return seeded inputs, (count, ...) for each input of the model: standard normal, or whole numbers below TOKENS."""
    rng = np.random.default_rng(seed)
    return [
        rng.standard_normal((count, *tensor.shape[1:])).astype(np.float32)
        if tensor.dtype == "float32"
        else rng.integers(0, TOKENS, (count, *tensor.shape[1:])).astype(tensor.dtype)
        for tensor in model.inputs
    ]


def _sequence(shape: tuple[int, ...], *layers: Any, dtype: str = "float32") -> Any:
    import keras

    return keras.Sequential([keras.Input(shape, dtype=dtype), *layers, keras.layers.Dense(5)])
