"""Wrong use gets a sentence, and PyTorch is as it was; right use of the plain functions, too."""

import unittest

import rig

HEAD = """
    import sys, types
    def refused(call, *parts):
        import forebay
        try:
            call()
        except forebay.ForebayError as error:
            said = str(error)
            assert all(part in said for part in parts), said
        else:
            raise SystemExit("not refused")
"""


def check(text, **environment):
    return rig.script(HEAD + text, **environment)


class WrongUse(unittest.TestCase):
    def test_too_late(self):
        check("""
    import torch, forebay.torch
    tensor = torch.empty(1, device="cuda")
    refused(forebay.torch.enable, "before the first CUDA tensor", "mode='pool'")
    assert forebay.torch.mode() is None
    assert torch.cuda.memory_allocated() == 512
    """)

    def test_another_allocator_is_there(self):
        check("""
    import torch, forebay.torch
    path = forebay.library_path()
    other = torch.cuda.memory.CUDAPluggableAllocator(path, "forebay_torch_malloc",
                                                     "forebay_torch_free")
    torch.cuda.memory.change_current_allocator(other)
    torch.cuda.init()
    refused(forebay.torch.enable, "before the first CUDA tensor")
    """)

    def test_unknown_words(self):
        check("""
    import forebay.torch
    refused(lambda: forebay.torch.enable("globall"), "mode is 'globall'", "'global', 'pool'")
    refused(lambda: forebay.torch.enable(policy="fast"), 'policy is "fast"', "balanced")
    refused(lambda: forebay.torch.enable(limit="lots"), 'limit is "lots"', "16GiB")
    refused(lambda: forebay.torch.enable(limit=1.5), 'limit is "1.5')
    refused(lambda: forebay.torch.enable(limit=0), "limit is")
    for wrong in ([], True):
        try:
            forebay.torch.enable(limit=wrong)
        except TypeError as error:
            assert "limit is" in str(error)
        else:
            raise SystemExit("not refused")
    assert forebay.torch.mode() is None
    forebay.torch.enable("global", policy="latency_first", limit="90%")
    import torch
    torch.empty(1, device="cuda")
    assert forebay.torch.pool_report()["policy"] == "latency_first"
    """)

    def test_words_of_the_environment(self):
        for name, value in (
            ("FOREBAY_TORCH_MODE", "both"),
            ("FOREBAY_TORCH_POLICY", "fast"),
            ("FOREBAY_TORCH_LIMIT", "lots"),
        ):
            check(f"""
    import forebay.torch
    refused(forebay.torch.enable, "{name} is", "{value}")
    """, **{name: value})

    def test_a_limit_that_no_pool_can_have(self):
        # It is found when the pool is made, and said then.
        check("""
    import torch, forebay.torch
    forebay.torch.enable(limit=4096)
    try:
        torch.empty(1, device="cuda")
    except RuntimeError as error:
        assert "max_bytes is 4096" in str(error), error
    else:
        raise SystemExit("not refused")
    """)

    def test_no_pytorch(self):
        check("""
    sys.modules["torch"] = None
    import forebay.torch
    refused(forebay.torch.enable, "needs PyTorch")
    """)

    def test_pytorch_of_another_age(self):
        check("""
    import torch, forebay.torch
    torch.__version__ = "2.4.1+cu121"
    refused(forebay.torch.enable, "2.4.1+cu121 is too old", "2.6")
    torch.__version__ = "9.0.0"
    import warnings
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        forebay.torch.enable()
    assert "newer than what forebay.torch is tested with" in str(caught[0].message)
    assert torch.cuda.get_allocator_backend() == "pluggable"
    """)
        check("""
    import torch, forebay.torch
    torch.version.cuda = None
    refused(forebay.torch.enable, "built without CUDA")
    """)
        check("""
    import torch, forebay.torch
    del torch._C._cuda_customAllocator
    refused(forebay.torch.enable, "has no _cuda_customAllocator")
    """)

    def test_no_library(self):
        check("""
    import forebay.torch
    refused(forebay.torch.enable, "/nowhere/libforebay.so (no such file)", "FOREBAY_LIBRARY")
    """, FOREBAY_LIBRARY="/nowhere/libforebay.so")
        check("""
    import forebay.torch
    refused(forebay.torch.enable, "has no forebay_version", "another version")
    """, FOREBAY_LIBRARY="libc.so.6")

    def test_without_the_python_side(self):
        # PyTorch's own lines: the environment is read in the library.
        rig.script("""
            import torch, forebay
            mine = torch.cuda.memory.CUDAPluggableAllocator(
                forebay.library_path(), "forebay_torch_malloc", "forebay_torch_free")
            torch.cuda.memory.change_current_allocator(mine)
            live = torch.empty(50 << 20, dtype=torch.uint8, device="cuda")
            try:
                torch.empty(60 << 20, dtype=torch.uint8, device="cuda")
            except torch.OutOfMemoryError as error:
                assert "limit of 100.00 MiB" in str(error), error
            else:
                raise SystemExit("not refused")
            # A capture that nobody told of is refused, not corrupted.
            graph = torch.cuda.CUDAGraph()
            torch.cuda.synchronize()
            stream = torch.cuda.Stream()
            try:
                with torch.cuda.graph(graph, stream=stream):
                    torch.empty(1 << 20, device="cuda")
            except RuntimeError as error:
                assert "forebay" in str(error), error
            else:
                raise SystemExit("not refused")
            """, FOREBAY_TORCH_LIMIT="100MiB", SIM_CUDART_KERNELS="skip")


class Frees(unittest.TestCase):
    def test_wrong_frees_are_reported_and_change_nothing(self):
        _, said = rig.script("""
            import torch, forebay.torch
            forebay.torch.enable()
            address = torch.cuda.caching_allocator_alloc(1000)
            library = forebay._library.library()
            import ctypes
            free = library.forebay_torch_free
            free.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_void_p]
            free.restype = None
            free(12345, 10, 0, None)
            free(None, 10, 0, None)
            free(address + 512, 10, 0, None)
            assert torch.cuda.memory_stats()["allocation.all.current"] == 1
            torch.cuda.caching_allocator_delete(address)
            free(address, 1000, 0, None)
            assert torch.cuda.memory_stats()["allocation.all.current"] == 0
            """)
        self.assertEqual(said.count("forebay: forebay_torch_free: ptr"), 3, said)


if __name__ == "__main__":
    rig.main()
