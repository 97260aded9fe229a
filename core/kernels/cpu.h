// Vectors, SiLU and threads for the kernels of a CPU.

#pragma once

#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>
#if defined(__AVX512F__)
#include <immintrin.h>
#endif

namespace {

// Vectors as wide as the machine's registers (GNU extension: g++ and clang++).
#if defined(__AVX512F__)
constexpr int L = 16;
#elif defined(__AVX__)
constexpr int L = 8;
#else
constexpr int L = 4;
#endif
typedef float V __attribute__((vector_size(4 * L)));
typedef int32_t I __attribute__((vector_size(4 * L)));
typedef uint32_t U __attribute__((vector_size(4 * L)));
typedef uint16_t S __attribute__((vector_size(2 * L)));
// the same in memory, of any alignment
typedef float VM __attribute__((vector_size(4 * L), aligned(4), may_alias));
typedef uint16_t SM __attribute__((vector_size(2 * L), aligned(2), may_alias));

struct bf16 {
    uint16_t bits;
};

inline V widen(const float *p) { return *(const VM *)p; }

inline V widen(const bf16 *p) {
#if defined(__AVX512F__)  // g++ 12 makes four instructions of the line below
    return (V)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p)), 16);
#else
    return (V)(__builtin_convertvector((S) * (const SM *)p, U) << 16);
#endif
}

inline float widened(float v) { return v; }

inline float widened(bf16 v) {
    uint32_t u = uint32_t(v.bits) << 16;
    float f;
    std::memcpy(&f, &u, sizeof f);
    return f;
}

inline void narrow(float *p, V v) { *(VM *)p = v; }

inline void narrow(bf16 *p, V v) {
#if defined(__AVX512BF16__)
    *(SM *)p = (S)_mm512_cvtneps_pbh((__m512)v);
#else
    U u = (U)v;
    U even = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;  // to nearest, ties to even
    I nan = (v != v);
    *(SM *)p = __builtin_convertvector(((U)nan & 0x7fc0u) | (~(U)nan & even), S);
#endif
}

// How many channels of a vector there are: all, or fewer at the end of a pixel.
struct All {};
typedef int64_t Some;

template <class T> inline V load(const T *p, All) { return widen(p); }

template <class T> inline V load(const T *p, Some left) {
    T padded[L] = {};
    for (int64_t i = 0; i < left; i++) padded[i] = p[i];
    return widen(padded);
}

template <class T> inline void store(T *p, V v, All) { narrow(p, v); }

template <class T> inline void store(T *p, V v, Some left) {
    T padded[L];
    narrow(padded, v);
    for (int64_t i = 0; i < left; i++) p[i] = padded[i];
}

// exp to 1 ulp or so (Cody-Waite reduction, polynomial of degree 6); clamped short of overflow, NaN stays NaN.
inline V exp(V x) {
    x = x < -87.0f ? V{} - 87.0f : x;
    x = x > 88.0f ? V{} + 88.0f : x;
    const float magic = 12582912.0f;  // 1.5 x 2^23: adding it rounds to an integer
    V n = (x * 1.44269504f + magic) - magic;
    V r = x - n * 0.693359375f;
    r = r + n * 2.12194440e-4f;
    V p = r * 1.9875691500e-4f + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = (p * r) * r + r + 1.0f;
    I e = __builtin_convertvector(n, I);
    return p * (V)((e + 127) << 23);
}

inline V silu(V z) { return z / (1.0f + exp(-z)); }

inline V silu_slope(V z) {
    V e = exp(-z);
    V s = 1.0f / (1.0f + e);
    return s * (1.0f + z * (e * s));
}

constexpr int ROWS = 4;  // pixels taken together: coefficients and sums are read once for all

template <int N> struct Rows {
    static constexpr int n = N;
};

inline V together(const V *v, Rows<1>) { return v[0]; }

inline V together(const V *v, Rows<ROWS>) {
    static_assert(ROWS == 4);
    return (v[0] + v[1]) + (v[2] + v[3]);
}

// Calls f(first pixel, number of them) over a chunk.
template <class F> inline void by_rows(int64_t pixels, const F &f) {
    int64_t p = 0;
    for (; p + ROWS <= pixels; p += ROWS) f(p, Rows<ROWS>());
    for (; p < pixels; p++) f(p, Rows<1>());
}

// Calls f(first channel, how many) over the vectors of a pixel; the count is a constant but for the last.
template <class F> inline void by_vectors(int64_t c, const F &f) {
    int64_t k = 0;
    for (; k + L <= c; k += L) f(k, All());
    if (k < c) f(k, Some(c - k));
}

// Work over threads: of torch's own OpenMP runtime, through the address of its GOMP_parallel. Items are taken
// as threads become free, so that a result may depend on its item alone.

typedef void (*Parallel)(void (*)(void *), void *, unsigned, unsigned);

template <class F> struct Job {
    std::atomic<int64_t> next;
    int64_t count;
    const F *item;
};

template <class F> void for_each(void *parallel, int64_t threads, int64_t count, const F &item) {
    if (threads > count) threads = count;
    if (parallel == nullptr || threads < 2) {
        for (int64_t i = 0; i < count; i++) item(i);
        return;
    }
    Job<F> job{{0}, count, &item};
    auto work = [](void *data) {
        auto &job = *static_cast<Job<F> *>(data);
        for (int64_t i; (i = job.next.fetch_add(1)) < job.count;) (*job.item)(i);
    };
    reinterpret_cast<Parallel>(parallel)(work, &job, unsigned(threads), 0);
}

}  // namespace
