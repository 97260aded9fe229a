// Group normalisation with what follows it, for maps that lie in memory as (B, H W, C):
//
//     y = act(((w GN(h) + b)(1 + gamma) + beta)(1 + scale) + shift),  act = SiLU or nothing.
//
// Compiled at run time (nvrtc.py) for T = float or bf16 and V channels to a load; launched by norm_cuda.py.
// Arithmetic is fp32. No atomics: the same input gives the same bits.

// Mean and squared deviations of each group over the pixels of a block.
// partial: (B, groups, chunks, 2). Sums are shifted by the chunk's first pixel, channel by channel, so that a large
// mean does not cancel; channels and chunks are merged through their means (Chan et al. 1983).
// Shared: 2 C + 512 V floats.
template <typename T, int V>
__global__ __launch_bounds__(256, 4) void norm_statistics(
    const T* __restrict__ h, float* __restrict__ partial, int pixels, int channels, int groups, int span) {
    extern __shared__ __align__(16) float shared[];
    const Place at(channels, V, pixels, span, blockIdx.x);
    float* const mean = shared;
    float* const squares = mean + channels;
    float* const sums = squares + channels;  // (2, V, rows, width)
    const int plane = at.rows * at.width;
    const T* const base = h + (size_t)blockIdx.y * pixels * channels;
    const T* const head = base + (size_t)at.first * channels;
    const float count = (float)(at.last - at.first);

    for (int tile = 0; tile < at.vectors; tile += at.width) {
        if (at.active(tile)) {
            const int c = (tile + at.column) * V;
            float k[V], s[V], q[V];
            load<T, V>(head + c, k);
#pragma unroll
            for (int v = 0; v < V; ++v) s[v] = q[v] = 0.0f;
#pragma unroll 4
            for (int p = at.first + at.row; p < at.last; p += at.rows) {
                float x[V];
                load<T, V>(base + (size_t)p * channels + c, x);
#pragma unroll
                for (int v = 0; v < V; ++v) {
                    const float d = x[v] - k[v];
                    s[v] += d;
                    q[v] += d * d;
                }
            }
#pragma unroll
            for (int v = 0; v < V; ++v) {
                sums[v * plane + at.row * at.width + at.column] = s[v];
                sums[(V + v) * plane + at.row * at.width + at.column] = q[v];
            }
        }
        __syncthreads();
        const int wide = at.in_tile(tile);
        for (int i = threadIdx.x; i < wide * V; i += blockDim.x) {
            const int column = i % wide, v = i / wide, c = (tile + column) * V + v;
            float s = 0.0f, q = 0.0f;
            for (int row = 0; row < at.rows; ++row) {
                s += sums[v * plane + row * at.width + column];
                q += sums[(V + v) * plane + row * at.width + column];
            }
            mean[c] = widen(head[c]) + s / count;
            squares[c] = fmaxf(q - s * s / count, 0.0f);
        }
        __syncthreads();
    }

    const int lane = threadIdx.x % 32, each = channels / groups;
    for (int group = threadIdx.x / 32; group < groups; group += blockDim.x / 32) {
        const int c = group * each;
        float s = 0.0f;
        for (int i = lane; i < each; i += 32) s += mean[c + i] - mean[c];
        const float middle = mean[c] + warp_sum(s) / each;
        float q = 0.0f;
        for (int i = lane; i < each; i += 32) {
            const float d = mean[c + i] - middle;
            q += squares[c + i] + count * d * d;
        }
        q = warp_sum(q);
        if (lane == 0) {
            const size_t place = ((size_t)blockIdx.y * groups + group) * gridDim.x + blockIdx.x;
            partial[2 * place] = middle;
            partial[2 * place + 1] = q;
        }
    }
}

// The chunks of one group (blockIdx.x) of one sample (blockIdx.y) merged; one warp.
__global__ __launch_bounds__(32) void norm_finalise(
    const float* __restrict__ partial, float* __restrict__ mean, float* __restrict__ rstd, int pixels, int each,
    int chunks, int span, float eps) {
    const size_t place = (size_t)blockIdx.y * gridDim.x + blockIdx.x;
    const float* const of = partial + 2 * place * chunks;
    const float total = (float)pixels, shift = of[0];
    float s = 0.0f;
    for (int i = threadIdx.x; i < chunks; i += 32) {
        const float count = (float)(i == chunks - 1 ? pixels - i * span : span);
        s += count * (of[2 * i] - shift);
    }
    const float middle = shift + warp_sum(s) / total;
    float q = 0.0f;
    for (int i = threadIdx.x; i < chunks; i += 32) {
        const float count = (float)(i == chunks - 1 ? pixels - i * span : span);
        const float d = of[2 * i] - middle;
        q += of[2 * i + 1] / each + count * d * d;
    }
    q = warp_sum(q);
    if (threadIdx.x == 0) {
        mean[place] = middle;
        rstd[place] = 1.0f / sqrtf(q / total + eps);
    }
}

// Where a pixel finds its modulation in a patch: borders at the borders, the centre for the rest.
__device__ inline int patch_index(int at, int size, int patch) {
    const int near = patch / 2, far = patch - 1 - near;
    return at >= size - far ? at - size + patch : at < near ? at : near;
}

// MAP: 0 no modulation, 1 a map of the size of h, 2 a patch.
template <typename T, int V, int MAP>
__global__ __launch_bounds__(256, MAP ? 3 : 4) void norm_apply(
    const T* __restrict__ h, T* __restrict__ out, const float* __restrict__ mean, const float* __restrict__ rstd,
    const float* __restrict__ weight, const float* __restrict__ bias, const T* __restrict__ gamma_beta,
    const float* __restrict__ scale, const float* __restrict__ shift, int height, int width, int channels,
    int groups, int span, int patch_height, int patch_width, int modulations, int scale_stride, int shift_stride,
    int silu) {
    // last chunk first: what the statistics read last still lies in the L2 cache
    const int pixels = height * width, b = blockIdx.y, chunk = gridDim.x - 1 - blockIdx.x;
    const Place at(channels, V, pixels, span, chunk);
    const size_t offset = (size_t)b * pixels * channels;
    const size_t map_pixels = MAP == 2 ? (size_t)patch_height * patch_width : (size_t)pixels;
    const T* const map = MAP ? gamma_beta + (modulations > 1 ? b * map_pixels * 2 * channels : 0) : nullptr;

    for (int tile = 0; tile < at.vectors; tile += at.width) {
        if (!at.active(tile)) continue;
        const int c = (tile + at.column) * V, each = channels / groups;
        // y = (h - m) a + d without modulation; z = (h - m) a + d, y = z (1 + gamma) + beta s + t with it
        float m[V], a[V], d[V], s[V], t[V];
#pragma unroll
        for (int v = 0; v < V; ++v) {
            const int g = b * groups + (c + v) / each;
            s[v] = scale ? 1.0f + scale[(size_t)b * scale_stride + c + v] : 1.0f;
            t[v] = shift ? shift[(size_t)b * shift_stride + c + v] : 0.0f;
            m[v] = mean[g];
            a[v] = rstd[g] * (weight ? weight[c + v] : 1.0f) * s[v];
            d[v] = (bias ? bias[c + v] : 0.0f) * s[v] + (MAP ? 0.0f : t[v]);
        }
#pragma unroll(MAP ? 2 : 4)
        for (int p = at.first + at.row; p < at.last; p += at.rows) {
            float x[V];
            load<T, V>(h + offset + (size_t)p * channels + c, x);
#pragma unroll
            for (int v = 0; v < V; ++v) x[v] = (x[v] - m[v]) * a[v] + d[v];
            if constexpr (MAP != 0) {
                size_t q = p;
                if constexpr (MAP == 2) {
                    q = (size_t)patch_index(p / width, height, patch_height) * patch_width +
                        patch_index(p % width, width, patch_width);
                }
                float gamma[V], beta[V];
                load<T, V>(map + q * 2 * channels + c, gamma);
                load<T, V>(map + q * 2 * channels + channels + c, beta);
#pragma unroll
                for (int v = 0; v < V; ++v) x[v] = x[v] * gamma[v] + x[v] + (beta[v] * s[v] + t[v]);
            }
            if (silu) {
#pragma unroll
                for (int v = 0; v < V; ++v) x[v] = __fdividef(x[v], 1.0f + __expf(-x[v]));
            }
            store<V>(out + offset + (size_t)p * channels + c, x);
        }
    }
}
