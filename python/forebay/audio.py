"""Features of audio, written into memory that the caller has.

    mel = SpectrogramOperator()                        # (128, frames), power
    out = pool.allocate(mel.shape_of(len(audio)), audio.dtype)
    mel(audio, out=out)

An operator is made once and called often: it keeps its filters and its work buffers, and after the
first call with a dtype allocates nothing more with ``out=`` (numpy before 2.0 does: its FFT cannot
write to memory that is there). Frames are taken a few at a time, so the buffers fit a processor's
cache and do not grow with the audio.

Audio is mono, of dtype float32 or float64; results have its dtype. Frame ``i`` begins at sample ``i
* hop_length``; there is no padding: ``1 + (samples - n_fft) // hop_length`` frames.
"""

import threading
import time

import numpy as np

__all__ = ["ChromaOperator", "MFCCOperator", "SpectrogramOperator"]

#: Samples of the frames that are worked on at a time: 1 MiB.
_BLOCK = 1 << 17

#: Mel bands that are multiplied at a time: most of the filters are zeros, and those of neighbours
#: are in the same places.
_BANDS = 16

#: Power that decibels begin at.
_LEAST_POWER = 1e-10

_FFT_WRITES = int(np.__version__.split(".")[0]) >= 2


class _Operator:
    """What all operators do alike: arguments, frames, work buffers, one call at a time."""

    #: Rows of a result.
    rows = 0

    def __init__(self, sample_rate, n_fft, hop_length, window, allocate):
        self.sample_rate = _positive("sample_rate", sample_rate)
        self.n_fft = _whole("n_fft", n_fft, 2)
        self.hop_length = _whole("hop_length", hop_length, 1)
        if isinstance(window, str):
            if window != "hann":
                raise ValueError(f"window is {window!r}; it must be 'hann', or an array")
            # The one whose period is n_fft, as is right for spectra.
            window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(self.n_fft) / self.n_fft)
        self.window = np.array(window, np.float64)
        if self.window.shape != (self.n_fft,):
            raise ValueError(f"window has shape {self.window.shape}; n_fft is {self.n_fft}")
        self.bins = 1 + self.n_fft // 2
        self._allocate = np.empty if allocate is None else allocate
        self._block = max(_BLOCK // self.n_fft, 1)
        self._buffers = {}
        self._lock = threading.Lock()
        #: Calls that returned, and the seconds that they took.
        self.calls, self.total_time = 0, 0.0

    def __reduce__(self):
        # Filters and buffers are made anew where it goes.
        return _again, (type(self), self._arguments())

    def shape_of(self, samples):
        """The shape of the result for so many samples: (rows, frames). Raises ValueError when they
        are less than one frame."""
        if samples < self.n_fft:
            raise ValueError(f"audio has {samples} samples; a frame has {self.n_fft} (n_fft)")
        return self.rows, 1 + (samples - self.n_fft) // self.hop_length

    def __call__(self, audio, out=None):
        """The feature of ``audio``: in ``out``, which must have its shape and the audio's dtype and
        may not overlap it, or in a new array. Returns it.

        May be called from any thread; calls of one operator wait for each other. Raises TypeError
        for a dtype, ValueError for a shape; ``out`` is then as it was.
        """
        audio = np.asarray(audio)
        if audio.dtype not in (np.float32, np.float64):
            raise TypeError(
                f"audio has dtype {audio.dtype}; it must be float32 or float64 (16-bit samples: "
                "audio.astype('float32') / 32768)"
            )
        if audio.ndim != 1:
            raise ValueError(
                f"audio has shape {audio.shape}; it must be mono, with one axis (audio.mean(axis) "
                "mixes channels)"
            )
        shape = self.shape_of(len(audio))
        if out is None:
            out = np.empty(shape, audio.dtype)
        else:
            _check_out(out, shape, audio)
        with self._lock:
            begun = time.perf_counter()
            self._compute(audio, out)
            self.calls += 1
            self.total_time += time.perf_counter() - begun
        return out

    def _buffer(self, name, shape, dtype):
        """The work buffer with that name, of ``shape``: the one that is there, if it is as
        large."""
        key = name, np.dtype(dtype).char
        size = 1
        for length in shape:
            size *= length
        found = self._buffers.get(key)
        if found is None or found.size < size:
            self._buffers.pop(key, None)
            found = self._allocate((size,), np.dtype(dtype))
            if found is None:
                raise MemoryError(f"no memory for {size} elements of {np.dtype(dtype)}")
            self._buffers[key] = found
        return found[:size].reshape(shape)

    def _constant(self, name, dtype):
        """A filter of this operator in ``dtype``."""
        key = name, dtype.char
        found = self._buffers.get(key)
        if found is None:
            found = self._buffers[key] = np.ascontiguousarray(getattr(self, name), dtype)
        return found

    def _powers(self, audio):
        """Power spectra, some frames at a time: where they begin and end, and (frames, bins). In
        float64, as numpy's FFT reckons float32 too.

        Every operation here is one that numpy does without buffers of its own: where it broadcasts,
        its iterators would make some."""
        count = self.shape_of(len(audio))[1]
        step = audio.strides[0]
        frames = np.lib.stride_tricks.as_strided(
            audio, (count, self.n_fft), (step * self.hop_length, step), writeable=False
        )
        block = min(self._block, count)
        work = self._buffer("work", (block, self.n_fft), np.float64)
        raw = None
        if audio.dtype != np.float64:
            raw = self._buffer("raw", (block, self.n_fft), np.float64)
        spectrum = self._buffer("spectrum", (block, self.bins), np.complex128)
        # Real and imaginary parts beside each other.
        parts = spectrum.view(np.float64).reshape(block, self.bins, 2)
        power = self._buffer("power", (block, self.bins), np.float64)
        for begin in range(0, count, block):
            end = min(begin + block, count)
            now, source = slice(0, end - begin), frames[begin:end]
            if raw is not None:
                np.copyto(raw[now], source)
                source = raw[now]
            np.einsum("ij,j->ij", source, self.window, out=work[now])
            if _FFT_WRITES:
                np.fft.rfft(work[now], out=spectrum[now])
            else:
                spectrum[now] = np.fft.rfft(work[now])
            np.multiply(parts[now], parts[now], out=parts[now])
            np.add(parts[now, :, 0], parts[now, :, 1], out=power[now])
            yield begin, end, power[now]

    def _in(self, dtype, powers):
        """``powers`` in the dtype of the result."""
        if dtype == powers.dtype:
            return powers
        found = self._buffer("cast", powers.shape, dtype)
        np.copyto(found, powers, casting="same_kind")
        return found


def _again(kind, arguments):
    return kind(**arguments)


def _check_out(out, shape, audio):
    if not isinstance(out, np.ndarray):
        raise TypeError(f"out is a {type(out).__name__}; it must be a numpy array")
    if out.dtype != audio.dtype:
        raise TypeError(f"out has dtype {out.dtype}; the audio has {audio.dtype}")
    if out.shape != shape:
        raise ValueError(f"out has shape {out.shape}; the result has {shape}")
    if not out.flags.writeable:
        raise ValueError("out is read-only")
    if np.may_share_memory(audio, out):
        raise ValueError("out overlaps audio, which is read while out is written")


def _positive(name, number):
    if isinstance(number, bool) or not 0 < number < float("inf"):
        raise ValueError(f"{name} is {number!r}; it must be more than 0")
    return number


def _whole(name, number, least):
    if isinstance(number, bool) or not isinstance(number, (int, np.integer)) or number < least:
        raise ValueError(f"{name} is {number!r}; it must be a whole number, {least} or more")
    return int(number)


def _mel(hertz):
    """Slaney's scale (Auditory Toolbox, 1998): linear to 1 kHz, 15 mel; then 27 steps are a factor
    of 6.4."""
    hertz = np.asarray(hertz, np.float64)
    above = 15 + 27 * np.log(np.maximum(hertz, 1000) / 1000) / np.log(6.4)
    return np.where(hertz < 1000, hertz * 3 / 200, above)


def _hertz(mel):
    above = 1000 * 6.4 ** ((np.maximum(mel, 15) - 15) / 27)
    return np.where(mel < 15, mel * 200 / 3, above)


def mel_filters(sample_rate, n_fft, n_mels, fmin=0.0, fmax=None):
    """Triangles over the bins of a spectrum, of equal area, at equal distances in mel: (n_mels, 1 +
    n_fft // 2)."""
    fmax = sample_rate / 2 if fmax is None else fmax
    corners = _hertz(np.linspace(_mel(fmin), _mel(fmax), n_mels + 2))
    bins = np.arange(1 + n_fft // 2) * (sample_rate / n_fft)
    low, middle, high = (corners[at : at + n_mels, None] for at in range(3))
    rising, falling = (bins - low) / (middle - low), (high - bins) / (high - middle)
    return np.maximum(np.minimum(rising, falling), 0) * (2 / (high - low))


def _columns(filters):
    """Where the columns begin and end that are not all zeros."""
    columns = np.flatnonzero(filters.any(axis=0))
    return (int(columns[0]), int(columns[-1]) + 1) if len(columns) else (0, 0)


def dct_matrix(n_mfcc, n_mels):
    """The first rows of the orthonormal DCT-II: (n_mfcc, n_mels)."""
    order, at = np.arange(n_mfcc)[:, None], np.arange(n_mels)[None, :]
    matrix = np.cos(np.pi * order * (at + 0.5) / n_mels) * np.sqrt(2 / n_mels)
    matrix[0] *= np.sqrt(0.5)
    return matrix


def chroma_filters(sample_rate, n_fft, n_chroma, tuning=0.0):
    """How much each bin of a spectrum is of each pitch class, C first: (n_chroma, 1 + n_fft // 2).

    A bin counts by a Gaussian of its distance from the class, as wide as bins are apart there, and
    by one around 5 octaves above 27.5 Hz that is two octaves wide; before that the weights of a bin
    have norm 1. As Ellis defines it (Chroma feature analysis and synthesis, 2007).
    """
    bins = 1 + n_fft // 2
    # Octaves above A0; bin 0 has no pitch and is put an octave and a half below bin 1.
    hertz = np.arange(1, bins + 1) * (sample_rate / n_fft)
    octaves = np.log2(hertz / (27.5 * 2 ** (tuning / n_chroma)))
    octaves = np.concatenate(([octaves[0] - 1.5], octaves))
    pitch = octaves * n_chroma
    width = np.maximum(np.diff(pitch), 1)
    pitch = pitch[:bins]
    # C is three semitones above A.
    classes = (np.arange(n_chroma) + 3 * (n_chroma // 12))[:, None]
    # The nearest of that class, in any octave.
    distance = np.mod(pitch - classes + n_chroma / 2, n_chroma) - n_chroma / 2
    weights = np.exp(-2 * (distance / width) ** 2)
    weights /= np.linalg.norm(weights, axis=0)
    return weights * np.exp(-0.5 * ((octaves[:bins] - 5) / 2) ** 2)


class SpectrogramOperator(_Operator):
    """A spectrogram over ``n_mels`` mel bands, Slaney's, from ``fmin`` to ``fmax`` (None: half of
    ``sample_rate``), of equal area: (n_mels, frames). ``n_mels=0`` is the linear one: (1 + n_fft //
    2, frames).

    ``power`` is 2 for power, 1 for amplitude. ``sample_rate``, ``fmin`` and ``fmax`` are in Hz;
    ``n_fft`` (samples of a frame) and ``hop_length`` (from one to the next) in samples. ``window``
    is ``"hann"`` or an array of ``n_fft``. ``allocate(shape, dtype)`` makes the work buffers; None
    is numpy.
    """

    def __init__(
        self,
        sample_rate=22050,
        n_fft=2048,
        hop_length=512,
        n_mels=128,
        *,
        fmin=0.0,
        fmax=None,
        power=2.0,
        window="hann",
        allocate=None,
    ):
        super().__init__(sample_rate, n_fft, hop_length, window, allocate)
        self.n_mels = _whole("n_mels", n_mels, 0)
        self.power = _positive("power", power)
        top = sample_rate / 2 if fmax is None else fmax
        if not 0 <= fmin < top <= sample_rate / 2:
            raise ValueError(
                f"fmin is {fmin!r} and fmax {top!r}; they must be in order, and 0 to half of "
                f"sample_rate, {sample_rate / 2}"
            )
        self.fmin, self.fmax = fmin, fmax
        self.rows = self.n_mels or self.bins
        if self.n_mels:
            self.filters = mel_filters(sample_rate, self.n_fft, self.n_mels, fmin, fmax)
            self._bands = [
                (first, *_columns(self.filters[first : first + _BANDS]))
                for first in range(0, self.n_mels, _BANDS)
            ]

    def _arguments(self):
        names = ("sample_rate", "n_fft", "hop_length", "n_mels", "fmin", "fmax", "power", "window")
        return {name: getattr(self, name) for name in names}

    def _compute(self, audio, out):
        for begin, end, powers in self._powers(audio):
            if self.power == 1:
                np.sqrt(powers, out=powers)
            elif self.power != 2:
                np.power(powers, self.power / 2, out=powers)
            powers = self._in(audio.dtype, powers)
            if not self.n_mels:
                out[:, begin:end] = powers.T
                continue
            filters = self._constant("filters", audio.dtype)
            for first, low, high in self._bands:
                some = slice(first, first + _BANDS)
                np.matmul(filters[some, low:high], powers[:, low:high].T, out=out[some, begin:end])


class MFCCOperator(_Operator):
    """The first ``n_mfcc`` cepstral coefficients of a mel power spectrogram in decibels (of a power
    of 1, at most ``top_db`` below the loudest; None for all): its orthonormal DCT-II over the
    bands. (n_mfcc, frames).

    The other arguments are ``SpectrogramOperator``'s. The spectrogram is a work buffer of (n_mels,
    frames), which grows with the longest audio.
    """

    def __init__(
        self,
        sample_rate=22050,
        n_mfcc=13,
        n_fft=2048,
        hop_length=512,
        n_mels=128,
        *,
        fmin=0.0,
        fmax=None,
        top_db=80.0,
        window="hann",
        allocate=None,
    ):
        super().__init__(sample_rate, n_fft, hop_length, window, allocate)
        self.n_mfcc = self.rows = _whole("n_mfcc", n_mfcc, 1)
        self.n_mels = _whole("n_mels", n_mels, 1)
        if self.n_mfcc > self.n_mels:
            raise ValueError(f"n_mfcc is {n_mfcc}; there are {n_mels} bands (n_mels)")
        self.top_db = None if top_db is None else _positive("top_db", top_db)
        self._spectrogram = SpectrogramOperator(
            sample_rate, n_fft, hop_length, n_mels, fmin=fmin, fmax=fmax, window=window,
            allocate=allocate,
        )
        self.dct = dct_matrix(self.n_mfcc, self.n_mels)

    def _arguments(self):
        arguments = self._spectrogram._arguments()
        del arguments["power"]
        return {**arguments, "n_mfcc": self.n_mfcc, "top_db": self.top_db}

    def _compute(self, audio, out):
        decibels = self._buffer("mel", (self.n_mels, out.shape[1]), audio.dtype)
        self._spectrogram._compute(audio, decibels)
        np.maximum(decibels, decibels.dtype.type(_LEAST_POWER), out=decibels)
        np.log10(decibels, out=decibels)
        np.multiply(decibels, 10, out=decibels)
        if self.top_db is not None:
            flat = decibels.reshape(-1)
            np.maximum(decibels, flat[flat.argmax()] - self.top_db, out=decibels)
        np.matmul(self._constant("dct", audio.dtype), decibels, out=out)


class ChromaOperator(_Operator):
    """How the power of each frame is spread over the ``n_chroma`` pitch classes of an octave, C
    first, by ``chroma_filters``; the strongest is 1. A frame of silence is 0. (n_chroma, frames).

    ``tuning`` is how far the instruments are above A = 440 Hz, as a part of a class. The other
    arguments are ``SpectrogramOperator``'s.
    """

    def __init__(
        self,
        sample_rate=22050,
        n_fft=2048,
        hop_length=512,
        n_chroma=12,
        *,
        tuning=0.0,
        window="hann",
        allocate=None,
    ):
        super().__init__(sample_rate, n_fft, hop_length, window, allocate)
        self.n_chroma = self.rows = _whole("n_chroma", n_chroma, 1)
        if not abs(tuning) <= self.n_chroma:
            raise ValueError(f"tuning is {tuning!r}; it must be a part of a pitch class")
        self.tuning = tuning
        self.filters = chroma_filters(sample_rate, self.n_fft, self.n_chroma, tuning)

    def _arguments(self):
        names = ("sample_rate", "n_fft", "hop_length", "n_chroma", "tuning", "window")
        return {name: getattr(self, name) for name in names}

    def _compute(self, audio, out):
        filters = self._constant("filters", audio.dtype)
        tiny = np.finfo(audio.dtype).tiny
        for begin, end, powers in self._powers(audio):
            chroma = out[:, begin:end]
            np.matmul(filters, self._in(audio.dtype, powers).T, out=chroma)
            strongest = self._buffer("strongest", (end - begin,), audio.dtype)
            np.copyto(strongest, chroma[0])
            for row in chroma[1:]:
                np.maximum(strongest, row, out=strongest)
            # What is no sound is left as it is.
            np.copyto(strongest, 1, where=strongest < tiny)
            for row in chroma:
                np.divide(row, strongest, out=row)
