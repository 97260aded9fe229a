// Cross-attention of a map's pixels to a short context, in folded form, for maps that lie in memory as (B, H W, C):
//
//     out = h + softmax_S(X A + mask) M + bias,  A (C, N S), M (N S, C), softmax over the S of each of N heads.
//
// One launch: a block takes ROWS pixels of one sample (blockIdx.y), keeps them, their scores and their result in shared
// memory as fp32, and reads A and M once, through the L2 cache, that all blocks share. Compiled at run time
// (nvrtc.py), launched by cross_attention_cuda.py. No atomics: the same input gives the same bits.

// target (ROWS, wide) = or += from (ROWS, deep) times matrix (deep, wide). The block's threads share out the columns,
// V to a thread, and, where columns are few, the depth; partial (256 / width, ROWS, width V) gathers those shares.
template <typename T, int V, int ROWS, bool ADD>
__device__ inline void multiply(const float* from, const T* __restrict__ matrix, float* target, float* partial,
                                int deep, int wide) {
    const int vectors = wide / V, most = blockDim.x;
    const int width = vectors < most ? vectors : most, splits = most / width;
    const int column = threadIdx.x % width, split = threadIdx.x / width;
    for (int tile = 0; tile < vectors; tile += width) {
        if (split < splits && tile + column < vectors) {
            float sum[ROWS][V];
#pragma unroll
            for (int p = 0; p < ROWS; ++p) {
#pragma unroll
                for (int v = 0; v < V; ++v) sum[p][v] = 0.0f;
            }
            const T* const of = matrix + (tile + column) * V;
#pragma unroll 2
            for (int k = split * V; k < deep; k += splits * V) {
                float m[V][V];
#pragma unroll
                for (int j = 0; j < V; ++j) load<T, V>(of + (size_t)(k + j) * wide, m[j]);
#pragma unroll
                for (int p = 0; p < ROWS; ++p) {
                    float x[V];
                    load<float, V>(from + p * deep + k, x);
#pragma unroll
                    for (int j = 0; j < V; ++j) {
#pragma unroll
                        for (int v = 0; v < V; ++v) sum[p][v] += x[j] * m[j][v];
                    }
                }
            }
#pragma unroll
            for (int p = 0; p < ROWS; ++p) store<V>(partial + ((split * ROWS + p) * width + column) * V, sum[p]);
        }
        __syncthreads();
        const int full = width * V, here = (vectors - tile < width ? vectors - tile : width) * V;
        for (int i = threadIdx.x; i < ROWS * here; i += blockDim.x) {
            const int p = i / here, c = i % here;
            float s = 0.0f;
            for (int j = 0; j < splits; ++j) s += partial[(j * ROWS + p) * full + c];
            float* const to = target + p * wide + tile * V + c;
            *to = ADD ? *to + s : s;
        }
        __syncthreads();
    }
}

// V divides C and N S. mask: (B or 1, S), one byte each, or null. Shared: ROWS (C + N S + 256 V) floats.
template <typename T, int V, int ROWS>
__global__ __launch_bounds__(256, 2) void short_cross_attention(
    const T* __restrict__ h, T* __restrict__ out, const T* __restrict__ a, const T* __restrict__ m,
    const T* __restrict__ bias, const unsigned char* __restrict__ mask, int pixels, int channels, int heads,
    int tokens, int a_samples, int m_samples, int mask_samples) {
    extern __shared__ __align__(16) float shared[];
    const int columns = heads * tokens, sample = blockIdx.y, first = blockIdx.x * ROWS;
    const int here = pixels - first < ROWS ? pixels - first : ROWS;
    float* const x = shared;
    float* const scores = x + ROWS * channels;
    float* const partial = scores + ROWS * columns;
    const size_t offset = ((size_t)sample * pixels + first) * channels;
    const size_t folded = (size_t)channels * columns;
    a += a_samples > 1 ? sample * folded : 0;
    m += m_samples > 1 ? sample * folded : 0;
    const unsigned char* const keep = mask && mask_samples > 1 ? mask + sample * tokens : mask;

    // pixels past the end are zeros: they cost nothing that a branch would save
    for (int i = threadIdx.x * V; i < ROWS * channels; i += blockDim.x * V) {
        float values[V];
#pragma unroll
        for (int v = 0; v < V; ++v) values[v] = 0.0f;
        if (i < here * channels) load<T, V>(h + offset + i, values);
        store<V>(x + i, values);
    }
    __syncthreads();
    multiply<T, V, ROWS, false>(x, a, scores, partial, channels, columns);

    const int lane = threadIdx.x % 32;
    for (int row = threadIdx.x / 32; row < ROWS * heads; row += blockDim.x / 32) {
        float* const of = scores + row * tokens;  // (ROWS, N, S): a row to a head of a pixel
        float most = __int_as_float(0xff800000);
        for (int i = lane; i < tokens; i += 32) {
            if (!keep || keep[i]) most = fmaxf(most, of[i]);
        }
        most = warp_max(most);
        float sum = 0.0f;
        for (int i = lane; i < tokens; i += 32) {
            const float e = !keep || keep[i] ? __expf(of[i] - most) : 0.0f;
            of[i] = e;
            sum += e;
        }
        sum = warp_sum(sum);
        for (int i = lane; i < tokens; i += 32) of[i] /= sum;
    }
    __syncthreads();
    multiply<T, V, ROWS, true>(scores, m, x, partial, columns, channels);

    for (int i = threadIdx.x * V; i < here * channels; i += blockDim.x * V) {
        float values[V], b[V];
        load<float, V>(x + i, values);
        load<T, V>(bias + i % channels, b);
#pragma unroll
        for (int v = 0; v < V; ++v) values[v] += b[v];
        store<V>(out + offset + i, values);
    }
}
