"""Audio operators: numbers against SciPy and against plain loops, and what they allocate."""

import ctypes
import os
import pickle
import threading
import tracemalloc
import unittest

import numpy as np
import scipy.fft
import scipy.signal

import forebay
from forebay import audio as features
from forebay._library import check, library
from forebay.audio import ChromaOperator, MFCCOperator, SpectrogramOperator

#: How far results may be off, as a part of the largest.
NEAR = {np.float64: 1e-12, np.float32: 1e-6}


def sound(seconds, dtype=np.float64, sample_rate=22050):
    """A chord that fades in, in noise."""
    at = np.arange(int(seconds * sample_rate)) / sample_rate
    chord = sum(np.sin(2 * np.pi * hertz * at) for hertz in (261.63, 329.63, 392.0))
    noise = np.random.default_rng(5).standard_normal(len(at))
    return (0.2 * chord * np.linspace(0, 1, len(at)) + 0.01 * noise).astype(dtype)


def spectra(audio, n_fft, hop_length):
    """Complex spectra of the frames, by SciPy, in float64: (bins, frames)."""
    window = scipy.signal.get_window("hann", n_fft)
    begins = range(0, len(audio) - n_fft + 1, hop_length)
    frames = [audio[begin : begin + n_fft].astype(np.float64) * window for begin in begins]
    return scipy.fft.rfft(np.array(frames), axis=1).T


def mel_of(hertz):
    """Slaney's scale, as its definition says it: 66 2/3 Hz each up to 1 kHz, then a factor each."""
    if hertz < 1000:
        return hertz / (200 / 3)
    return 15 + np.log(hertz / 1000) / (np.log(6.4) / 27)


def hertz_of(mel):
    """By bisection, so as not to invert the formula twice in the same way."""
    low, high = 0.0, 1e6
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if mel_of(middle) < mel else (low, middle)
    return low


def mel_by_loops(power, sample_rate, n_fft, n_mels, fmin, fmax):
    """Band by band, bin by bin."""
    result = np.zeros((n_mels, power.shape[1]))
    low, high = mel_of(fmin), mel_of(fmax)
    corners = [hertz_of(low + (high - low) * n / (n_mels + 1)) for n in range(n_mels + 2)]
    for band in range(n_mels):
        left, middle, right = corners[band : band + 3]
        for bin in range(n_fft // 2 + 1):
            hertz = bin * sample_rate / n_fft
            if left < hertz <= middle:
                weight = (hertz - left) / (middle - left)
            elif middle < hertz < right:
                weight = (right - hertz) / (right - middle)
            else:
                continue
            result[band] += weight * 2 / (right - left) * power[bin]
    return result


def chroma_by_loops(power, sample_rate, n_fft, n_chroma=12, tuning=0.0):
    """Class by class, bin by bin."""
    bins = n_fft // 2 + 1
    weights = np.zeros((n_chroma, bins))
    hertz = [bin * sample_rate / n_fft for bin in range(1, bins + 1)]
    above = [np.log2(one / 27.5) - tuning / n_chroma for one in hertz]
    above.insert(0, above[0] - 1.5)
    for bin in range(bins):
        width = max((above[bin + 1] - above[bin]) * n_chroma, 1)
        for pitch in range(n_chroma):
            # The class of A is 0 in octaves above A, C is a quarter of an octave further.
            away = (above[bin] * n_chroma - (pitch + n_chroma // 4)) % n_chroma
            away = min(away, n_chroma - away)
            weights[pitch, bin] = np.exp(-0.5 * (2 * away / width) ** 2)
        weights[:, bin] /= np.sqrt((weights[:, bin] ** 2).sum())
        weights[:, bin] *= np.exp(-0.5 * ((above[bin] - 5) / 2) ** 2)
    chroma = weights @ power
    return chroma / chroma.max(axis=0)


class Numbers(unittest.TestCase):
    def near(self, found, wanted, dtype):
        self.assertEqual((found.shape, found.dtype), (wanted.shape, dtype))
        self.assertLess(np.abs(found - wanted).max() / np.abs(wanted).max(), NEAR[dtype])

    def both(self):
        for dtype in NEAR:
            with self.subTest(dtype=dtype.__name__):
                yield dtype, sound(3, dtype)

    def test_linear(self):
        for dtype, audio in self.both():
            for n_fft, hop in ((2048, 512), (512, 512), (400, 160), (511, 1000)):
                wanted = np.abs(spectra(audio, n_fft, hop))
                of = dict(n_fft=n_fft, hop_length=hop, n_mels=0)
                self.near(SpectrogramOperator(**of)(audio), wanted**2, dtype)
                self.near(SpectrogramOperator(**of, power=1)(audio), wanted, dtype)
                self.near(SpectrogramOperator(**of, power=0.5)(audio), wanted**0.5, dtype)

    def test_mel(self):
        for dtype, audio in self.both():
            power = np.abs(spectra(audio, 2048, 512)) ** 2
            wanted = mel_by_loops(power, 22050, 2048, 128, 0, 11025)
            self.near(SpectrogramOperator()(audio), wanted, dtype)
            power = np.abs(spectra(audio, 1024, 160)) ** 2
            wanted = mel_by_loops(power, 16000, 1024, 77, 60.5, 7600)
            operator = SpectrogramOperator(16000, 1024, 160, 77, fmin=60.5, fmax=7600)
            self.near(operator(audio), wanted, dtype)

    def test_mfcc(self):
        for dtype, audio in self.both():
            mel = SpectrogramOperator()(audio).astype(np.float64)
            decibels = 10 * np.log10(np.maximum(mel, 1e-10))
            for n_mfcc, top_db in ((13, 80), (128, 80), (1, 20), (20, None)):
                floor = -np.inf if top_db is None else decibels.max() - top_db
                wanted = scipy.fft.dct(np.maximum(decibels, floor), axis=0, norm="ortho")[:n_mfcc]
                self.near(MFCCOperator(n_mfcc=n_mfcc, top_db=top_db)(audio), wanted, dtype)

    def test_chroma(self):
        for dtype, audio in self.both():
            power = np.abs(spectra(audio, 2048, 512)) ** 2
            self.near(ChromaOperator()(audio), chroma_by_loops(power, 22050, 2048), dtype)
            wanted = chroma_by_loops(power, 22050, 2048, 24, 0.3)
            self.near(ChromaOperator(n_chroma=24, tuning=0.3)(audio), wanted, dtype)
            # The chord: C, E, G are the three strongest.
            strongest = np.argsort(ChromaOperator()(audio)[:, -1])[-3:]
            self.assertEqual(sorted(strongest.tolist()), [0, 4, 7])

    def test_matrices_of_the_dct(self):
        for size in (1, 2, 13, 128):
            matrix = features.dct_matrix(size, size)
            self.assertLess(np.abs(matrix @ matrix.T - np.eye(size)).max(), 1e-12)

    def test_filters_have_equal_areas(self):
        """Each is a triangle of area 1 over frequency, as far as it is wider than bins are."""
        filters = features.mel_filters(22050, 1 << 16, 128)
        areas = filters.sum(axis=1) * 22050 / (1 << 16)
        self.assertLess(np.abs(areas - 1).max(), 1e-3)

    def test_silence(self):
        audio = np.zeros(5000)
        self.assertEqual(SpectrogramOperator()(audio).max(), 0)
        self.assertEqual(ChromaOperator()(audio).tolist(), [[0.0] * 6] * 12)
        mfcc = MFCCOperator()(audio)
        self.assertAlmostEqual(mfcc[0, 0], -100 * np.sqrt(128))
        self.assertLess(np.abs(mfcc[1:]).max(), 1e-11)

    def test_all_ways_of_lying_in_memory(self):
        audio = sound(2)
        for operator in (SpectrogramOperator(), MFCCOperator(), ChromaOperator()):
            wanted = operator(audio)
            for laid in (np.repeat(audio, 3)[::3], audio[::-1].copy()[::-1]):
                self.assertTrue(np.array_equal(operator(laid), wanted))
            for out in (
                np.full(wanted.shape[::-1], np.nan).T,
                np.full((wanted.shape[0], 3 * wanted.shape[1]), np.nan)[:, ::3],
            ):
                self.assertIs(operator(audio, out=out), out)
                self.assertLess(np.abs(out - wanted).max(), 1e-9)
            read_only = audio.copy()
            read_only.flags.writeable = False
            self.assertTrue(np.array_equal(operator(read_only), wanted))

    def test_frames_one_by_one_and_many(self):
        """What is in a block does not depend on what is before and behind it."""
        audio = sound(8)
        for operator in (SpectrogramOperator(), ChromaOperator(), SpectrogramOperator(n_mels=0)):
            whole = operator(audio)
            self.assertGreater(whole.shape[1], 2 * operator._block)
            for frame in (0, operator._block - 1, operator._block, whole.shape[1] - 1):
                begin = frame * operator.hop_length
                alone = operator(audio[begin : begin + operator.n_fft])
                self.assertEqual(alone.shape[1], 1)
                self.assertLess(np.abs(alone[:, 0] - whole[:, frame]).max() / whole.max(), 1e-12)


class Memory(unittest.TestCase):
    def operators(self):
        yield SpectrogramOperator()
        yield SpectrogramOperator(n_mels=0, power=1)
        yield MFCCOperator()
        yield ChromaOperator()

    @unittest.skipIf(int(np.__version__.split(".")[0]) < 2, "numpy before 2.0 has no rfft(out=)")
    def test_no_array_after_the_first_call(self):
        """The most that is allocated at any time of a call is what Python has for views and
        numbers, and no array stays."""
        for dtype in (np.float32, np.float64):
            long, short = sound(8, dtype), sound(4, dtype)
            for operator in self.operators():
                out = np.empty(operator.shape_of(len(long)), dtype)
                less = np.empty(operator.shape_of(len(short)), dtype)
                operator(long, out=out)
                tracemalloc.start()
                try:
                    for audio, into in ((long, out), (short, less), (long, out)):
                        operator(audio, out=into)
                        before = tracemalloc.get_traced_memory()[0]
                        tracemalloc.reset_peak()
                        operator(audio, out=into)
                        after, peak = tracemalloc.get_traced_memory()
                        self.assertLess(peak - before, 8192, type(operator).__name__)
                        self.assertLess(after - before, 512)
                        arrays = tracemalloc.DomainFilter(True, np.lib.tracemalloc_domain)
                        snapshot = tracemalloc.take_snapshot().filter_traces([arrays])
                        self.assertEqual(sum(one.size for one in snapshot.traces), 0)
                finally:
                    tracemalloc.stop()

    def test_into_pool_memory(self):
        """Results and work buffers are a pool's; after the first call it is asked for nothing."""
        with forebay.Pool() as pool:

            def allocate(shape, dtype):
                dtype = np.dtype(dtype)
                size, block = int(np.prod(shape)) * dtype.itemsize, ctypes.c_void_p()
                check(library().forebay_alloc(pool.handle, size, None, ctypes.byref(block)))
                held = (ctypes.c_char * size).from_address(block.value)
                return np.frombuffer(held, dtype).reshape(shape)

            audio = sound(5)
            for kind in (SpectrogramOperator, MFCCOperator, ChromaOperator):
                operator = kind(allocate=allocate)
                out = allocate(operator.shape_of(len(audio)), audio.dtype)
                asked = pool.statistics()["allocations"]
                operator(audio, out=out)
                first = pool.statistics()["allocations"]
                self.assertGreaterEqual(first - asked, 3)
                for _ in range(3):
                    operator(audio, out=out)
                    operator(audio[:30000], out=out[:, : operator.shape_of(30000)[1]])
                operator(audio, out=out)
                self.assertEqual(pool.statistics()["allocations"], first)
                self.assertTrue(np.array_equal(out, kind()(audio)))

    def test_no_memory(self):
        with self.assertRaisesRegex(MemoryError, "elements of float64"):
            SpectrogramOperator(allocate=lambda shape, dtype: None)(sound(1))

    def test_buffers_do_not_grow_with_the_audio(self):
        operator = SpectrogramOperator()
        sizes = []
        for seconds in (10, 60):
            operator(sound(seconds))
            sizes.append(sum(one.nbytes for one in operator._buffers.values()))
        self.assertEqual(*sizes)
        self.assertLess(sizes[0], 6 << 20)


class Use(unittest.TestCase):
    def test_as_the_wish_has_it(self):
        audio = np.random.default_rng(0).standard_normal(22050 * 10)
        frames = 1 + (len(audio) - 2048) // 512
        for operator, rows in (
            (SpectrogramOperator(), 128),
            (MFCCOperator(n_mfcc=13), 13),
            (ChromaOperator(), 12),
        ):
            result = operator(audio)
            self.assertEqual((result.shape, result.dtype), ((rows, frames), np.float64))
            self.assertEqual(operator.shape_of(len(audio)), result.shape)
            self.assertTrue(np.isfinite(result).all())
            self.assertEqual(operator.calls, 1)
            self.assertGreater(operator.total_time, 0)

    def test_threads(self):
        """Calls of one operator do not mix."""
        operator = MFCCOperator()
        sounds = [sound(1) * scale for scale in (0.1, 1, 3, 10)]
        wanted = [MFCCOperator()(audio) for audio in sounds]
        wrong = []

        def work(at):
            for _ in range(10):
                if not np.array_equal(operator(sounds[at]), wanted[at]):
                    wrong.append(at)

        threads = [threading.Thread(target=work, args=(at,)) for at in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual((wrong, operator.calls), ([], 40))

    def test_pickles(self):
        audio = sound(1)
        window = scipy.signal.get_window("blackman", 1024)
        for operator in (
            SpectrogramOperator(16000, 1024, 100, 40, fmin=20, fmax=7000, power=1, window=window),
            MFCCOperator(16000, 20, 1024, 100, 40, top_db=None, window=window),
            ChromaOperator(16000, 1024, 100, 24, tuning=-0.2, window=window),
        ):
            wanted = operator(audio)
            again = pickle.loads(pickle.dumps(operator))
            self.assertLess(len(pickle.dumps(operator)), 20000)
            self.assertTrue(np.array_equal(again(audio), wanted))

    def test_wrong_audio(self):
        operator = SpectrogramOperator()
        for audio, error, message in (
            (np.zeros(5000, np.int16), TypeError, "audio has dtype int16; it must be float32"),
            (np.zeros(5000, ">f8"), TypeError, "audio has dtype >f8"),
            (np.zeros((2, 5000)), ValueError, r"audio has shape \(2, 5000\); it must be mono"),
            (np.zeros(2047), ValueError, r"audio has 2047 samples; a frame has 2048 \(n_fft\)"),
        ):
            with self.assertRaisesRegex(error, message):
                operator(audio)

    def test_wrong_out(self):
        audio = sound(1)
        operator = SpectrogramOperator()
        shape = operator.shape_of(len(audio))
        read_only = np.zeros(shape)
        read_only.flags.writeable = False
        long = np.concatenate((audio, np.zeros(40000)))
        for out, error, message in (
            (np.zeros(shape, np.float32), TypeError, "out has dtype float32; the audio has"),
            (np.zeros((3, 3)), ValueError, r"out has shape \(3, 3\); the result has \(128, 40\)"),
            (read_only, ValueError, "out is read-only"),
            ([0.0], TypeError, "out is a list"),
        ):
            with self.assertRaisesRegex(error, message):
                operator(audio, out=out)
        with self.assertRaisesRegex(ValueError, "out overlaps audio"):
            operator(long, out=long[: np.prod(operator.shape_of(len(long)))].reshape(128, -1))

    def test_wrong_arguments(self):
        for kind, arguments, message in (
            (SpectrogramOperator, {"sample_rate": 0}, "sample_rate is 0; it must be more than 0"),
            (SpectrogramOperator, {"n_fft": 1}, "n_fft is 1; it must be a whole number, 2"),
            (SpectrogramOperator, {"n_fft": 2048.0}, "n_fft is 2048.0"),
            (SpectrogramOperator, {"hop_length": 0}, "hop_length is 0"),
            (SpectrogramOperator, {"n_mels": -1}, "n_mels is -1"),
            (SpectrogramOperator, {"power": 0}, "power is 0"),
            (SpectrogramOperator, {"fmax": 20000}, "fmin is 0.0 and fmax 20000; .* 11025"),
            (SpectrogramOperator, {"fmin": 5000, "fmax": 4000}, "fmin is 5000 and fmax 4000"),
            (SpectrogramOperator, {"window": "boxcar"}, "window is 'boxcar'"),
            (SpectrogramOperator, {"window": np.ones(5)}, r"window has shape \(5,\); n_fft"),
            (MFCCOperator, {"n_mfcc": 0}, "n_mfcc is 0"),
            (MFCCOperator, {"n_mfcc": 41, "n_mels": 40}, "n_mfcc is 41; there are 40 bands"),
            (MFCCOperator, {"n_mels": 0}, "n_mels is 0"),
            (MFCCOperator, {"top_db": 0}, "top_db is 0"),
            (ChromaOperator, {"n_chroma": 0}, "n_chroma is 0"),
            (ChromaOperator, {"tuning": float("nan")}, "tuning is nan"),
        ):
            with self.assertRaisesRegex(ValueError, message):
                kind(**arguments)


@unittest.skipUnless(os.environ.get("FOREBAY_TEST_LIBROSA"), "FOREBAY_TEST_LIBROSA is not set")
class Librosa(unittest.TestCase):
    """By hand, where librosa is installed: the same numbers, with its filters in float64."""

    def test_all_of_them(self):
        import librosa

        filters = librosa.filters.mel(sr=22050, n_fft=2048, n_mels=128, dtype=np.float64)
        self.assertLess(np.abs(features.mel_filters(22050, 2048, 128) - filters).max(), 1e-14)
        filters = librosa.filters.chroma(sr=22050, n_fft=2048, dtype=np.float64)
        self.assertLess(np.abs(features.chroma_filters(22050, 2048, 12) - filters).max(), 1e-12)
        # With its own filters, which are float32.
        audio, of = sound(10), dict(sr=22050, n_fft=2048, hop_length=512, center=False)
        for ours, theirs in (
            (SpectrogramOperator(), librosa.feature.melspectrogram(y=audio, **of)),
            (MFCCOperator(), librosa.feature.mfcc(y=audio, n_mfcc=13, **of)),
            (ChromaOperator(), librosa.feature.chroma_stft(y=audio, tuning=0.0, **of)),
        ):
            self.assertLess(np.abs(ours(audio) - theirs).max() / np.abs(theirs).max(), 1e-6)


if __name__ == "__main__":
    unittest.main()
