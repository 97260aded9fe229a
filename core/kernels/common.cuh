// What the kernels share; put before the source of each (nvrtc.py). Needs no header.
//
// Every block has 256 threads and walks over `span` pixels of one sample (blockIdx.y) of a map that lies in memory
// as (B, H W, C). A thread keeps V channels and steps over the pixels, so that what belongs to a channel stays in
// registers and neighbouring threads load neighbouring addresses. Where C / V exceeds 256 the block goes over the
// channels in tiles. No thread leaves before a barrier.

struct bf16 {
    unsigned short bits;
};

template <typename T, int V>
struct alignas(sizeof(T) * V) Vector {
    T at[V];
};

__device__ inline float widen(float x) { return x; }
__device__ inline float widen(bf16 x) { return __uint_as_float((unsigned)x.bits << 16); }

// Rounds to nearest even; a NaN stays one.
__device__ inline unsigned short narrow(float x) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    unsigned short bits;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(x));
    return bits;
#else
    const unsigned u = __float_as_uint(x);
    if ((u & 0x7fffffffu) > 0x7f800000u) return 0x7fffu;
    return (unsigned short)((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
#endif
}

// Two at once: the hardware rounds a pair in one instruction. `low` is the lower address.
__device__ inline unsigned narrow_pair(float low, float high) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    unsigned bits;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(bits) : "f"(high), "f"(low));
    return bits;
#else
    return (unsigned)narrow(low) | ((unsigned)narrow(high) << 16);
#endif
}

template <typename T, int V>
__device__ inline void load(const T* from, float (&x)[V]) {
    const Vector<T, V> packed = *reinterpret_cast<const Vector<T, V>*>(from);
#pragma unroll
    for (int v = 0; v < V; ++v) x[v] = widen(packed.at[v]);
}

template <int V>
__device__ inline void store(float* to, const float (&x)[V]) {
    Vector<float, V> packed;
#pragma unroll
    for (int v = 0; v < V; ++v) packed.at[v] = x[v];
    *reinterpret_cast<Vector<float, V>*>(to) = packed;
}

template <int V>
__device__ inline void store(bf16* to, const float (&x)[V]) {
    if constexpr (V == 1) {
        to->bits = narrow(x[0]);
    } else {
        Vector<unsigned, V / 2> packed;
#pragma unroll
        for (int v = 0; v < V; v += 2) packed.at[v / 2] = narrow_pair(x[v], x[v + 1]);
        *reinterpret_cast<Vector<unsigned, V / 2>*>(to) = packed;
    }
}

__device__ inline float warp_sum(float x) {
    for (int step = 16; step > 0; step >>= 1) x += __shfl_xor_sync(0xffffffffu, x, step);
    return x;
}

__device__ inline float warp_max(float x) {
    for (int step = 16; step > 0; step >>= 1) x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, step));
    return x;
}

__device__ inline float sigmoid(float x) { return __fdividef(1.0f, 1.0f + __expf(-x)); }

// Which V channels and which pixels a thread of the block works on.
struct Place {
    int vectors, width, rows, column, row, first, last;
    __device__ Place(int channels, int v, int pixels, int span, int chunk) {
        vectors = channels / v;
        width = vectors < (int)blockDim.x ? vectors : (int)blockDim.x;
        rows = blockDim.x / width;
        column = threadIdx.x % width;
        row = threadIdx.x / width;
        first = chunk * span;
        last = first + span < pixels ? first + span : pixels;
    }
    __device__ bool active(int tile) const { return row < rows && tile + column < vectors; }
    // Channel vectors of this tile: the last one may be short.
    __device__ int in_tile(int tile) const { return vectors - tile < width ? vectors - tile : width; }
};
