import threadpoolctl

from amc_tf.blas import one_thread


def threads() -> dict[str, int]:
    libraries = threadpoolctl.threadpool_info()
    return {
        library["filepath"]: library["num_threads"] for library in libraries if library["user_api"] == "blas"
    }


def test_numpy_and_scipy_have_one_thread_and_then_what_they_had() -> None:
    with threadpoolctl.threadpool_limits(2, user_api="blas"):
        before = threads()
        assert len(before) >= 2 and set(before.values()) == {2}
        with one_thread():
            assert set(threads().values()) == {1}
            with one_thread():
                assert set(threads().values()) == {1}
            assert set(threads().values()) == {1}
        assert threads() == before
