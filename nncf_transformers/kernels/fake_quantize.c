/* Fused fake quantization for CPU, float32.
 *
 * NNCF's own CPU code runs one ATen operation after the other, so every step of the formula is a pass over memory:
 * about eight for the forward and twenty for the backward. Here each is one pass. The arithmetic is NNCF's, operation
 * by operation and in the same order, so the forward result is the same to the last bit; compile with
 * -ffp-contract=off to keep it so.
 *
 * A tensor is seen as [outer, channels, inner], contiguous; `low` and `range` hold one value per channel. A quantizer
 * per tensor is the case outer = channels = 1.
 *
 * The file needs no header of torch and links to no OpenMP library. The caller hands over the entry point
 * GOMP_parallel of the runtime that torch itself uses: a second runtime would bring a second pool of threads, and the
 * two would fight for the cores. GCC's and LLVM's runtimes both have this entry point.
 */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>

typedef void (*parallel_fn)(void (*body)(void *), void *data, unsigned threads, unsigned flags);

/* Small enough for the level-2 cache, big enough to hide the cost of taking it from the queue. */
enum { BLOCK = 8192, STRIP = 1024 };

typedef struct {
    const float *grad;   /* backward only */
    const float *input;
    const float *low;
    const float *range;
    float *output;       /* forward: the quantized values; backward: the gradient of the input */
    double *sum_range;   /* backward only: one partial sum per block */
    double *sum_low;     /* backward only; NULL for a symmetric quantizer, which has no use for it */
    int64_t channels, inner;
    int64_t blocks_per_row, blocks, blocks_per_grab;
    int64_t next;        /* the queue: first block that nobody has taken */
    float levels, alpha;
} job_t;

typedef struct {
    float low, high, step_inverse, zero_point, range_inverse;
} channel_t;

static inline channel_t channel_of(const job_t *job, int64_t channel) {
    channel_t c;
    c.low = job->low[channel];
    c.high = c.low + job->range[channel];
    c.step_inverse = (job->levels - 1.0f) / job->range[channel];
    c.zero_point = rintf(-c.low * c.step_inverse);
    c.range_inverse = 1.0f / job->range[channel];
    return c;
}

/* The comparisons are written so that a NaN passes through, as it does in at::min and at::max. */
static inline float quantize(float x, channel_t c) {
    float clipped = x > c.high ? c.high : x;
    clipped = clipped < c.low ? c.low : clipped;
    return rintf((clipped - c.low) * c.step_inverse - c.zero_point) / c.step_inverse;
}

static void forward_block(const job_t *job, channel_t c, int64_t start, int64_t count) {
    const float *restrict input = job->input + start;
    float *restrict output = job->output + start;
#pragma omp simd
    for (int64_t i = 0; i < count; i++) output[i] = quantize(input[i], c);
}

/* Straight-through gradients. Inside the range the input receives the gradient unchanged and the range receives the
 * rounding error relative to it; outside, the input receives nothing, the range 1 (above) or alpha = level_low /
 * level_high (below), and the lower bound the gradient itself.
 *
 * `grad` and `output` may be the same memory: each element is read before it is written. */
static inline void backward_strip(const job_t *job, channel_t c, int64_t start, int64_t count,
                                  float *restrict range_terms, float *restrict low_terms) {
    const float *grad = job->grad + start;
    const float *input = job->input + start;
    float *output = job->output + start;
    const float alpha = job->alpha;
#pragma omp simd
    for (int64_t i = 0; i < count; i++) {
        const float x = input[i], g = grad[i];
        const int above = x > c.high, below = x < c.low;
        float error = (quantize(x, c) - x) * c.range_inverse;
        error = above ? 1.0f : error;
        error = below ? alpha : error;
        range_terms[i] = error * g;
        if (low_terms) low_terms[i] = above | below ? g : 0.0f;
        output[i] = above | below ? 0.0f : g;
    }
}

static double sum(const float *terms, int64_t count) {
    double total = 0.0;
#pragma omp simd reduction(+ : total)
    for (int64_t i = 0; i < count; i++) total += (double)terms[i];
    return total;
}

/* The terms of the sums go through a strip that stays in the level-1 cache. Adding them up in the loop that computes
 * them would save that, but GCC 12 turns such a reduction, next to selections, into code that reads wild memory. */
static void backward_block(const job_t *job, channel_t c, int64_t start, int64_t count, int64_t block) {
    float range_terms[STRIP], low_terms[STRIP];
    double range_total = 0.0, low_total = 0.0;
    for (int64_t done = 0; done < count; done += STRIP) {
        const int64_t length = count - done < STRIP ? count - done : STRIP;
        if (job->sum_low) {
            backward_strip(job, c, start + done, length, range_terms, low_terms);
            low_total += sum(low_terms, length);
        } else {
            backward_strip(job, c, start + done, length, range_terms, NULL);
        }
        range_total += sum(range_terms, length);
    }
    job->sum_range[block] = range_total;
    if (job->sum_low) job->sum_low[block] = low_total;
}

/* Every thread takes blocks from the queue until it is empty. Which thread takes which block has no influence on the
 * result, because each block has a place of its own for its sums. */
static void work(void *data) {
    job_t *job = data;
    for (;;) {
        const int64_t first = __atomic_fetch_add(&job->next, job->blocks_per_grab, __ATOMIC_RELAXED);
        if (first >= job->blocks) return;
        int64_t last = first + job->blocks_per_grab;
        if (last > job->blocks) last = job->blocks;
        for (int64_t block = first; block < last; block++) {
            const int64_t row = block / job->blocks_per_row;
            const int64_t offset = (block % job->blocks_per_row) * BLOCK;
            const int64_t left = job->inner - offset;
            const int64_t count = left < BLOCK ? left : BLOCK;
            const channel_t c = channel_of(job, row % job->channels);
            if (job->grad)
                backward_block(job, c, row * job->inner + offset, count, block);
            else
                forward_block(job, c, row * job->inner + offset, count);
        }
    }
}

static void plan(job_t *job, int64_t outer) {
    job->blocks_per_row = (job->inner + BLOCK - 1) / BLOCK;
    job->blocks = outer * job->channels * job->blocks_per_row;
    /* Short rows (a weight's channels) are taken several at a time. */
    job->blocks_per_grab = job->inner > 0 && job->inner < BLOCK ? (BLOCK + job->inner - 1) / job->inner : 1;
    job->next = 0;
}

static void run(job_t *job, parallel_fn parallel, unsigned threads) {
    if (parallel && threads > 1)
        parallel(work, job, threads, 0);
    else
        work(job);
}

void fq_forward(const float *input, const float *low, const float *range, float *output, int64_t outer,
                int64_t channels, int64_t inner, float levels, parallel_fn parallel, unsigned threads) {
    job_t job = {.input = input, .low = low, .range = range, .output = output,
                 .channels = channels, .inner = inner, .levels = levels};
    plan(&job, outer);
    run(&job, parallel, threads);
}

/* `grad_low` is NULL for a symmetric quantizer. Returns 0, or 1 if there was no memory for the partial sums. */
int fq_backward(const float *grad, const float *input, const float *low, const float *range, float *grad_input,
                float *grad_low, float *grad_range, int64_t outer, int64_t channels, int64_t inner, float levels,
                float alpha, parallel_fn parallel, unsigned threads) {
    job_t job = {.grad = grad, .input = input, .low = low, .range = range, .output = grad_input,
                 .channels = channels, .inner = inner, .levels = levels, .alpha = alpha};
    plan(&job, outer);
    double *sums = malloc(sizeof(double) * (size_t)(job.blocks ? job.blocks : 1) * (grad_low ? 2 : 1));
    if (!sums) return 1;
    job.sum_range = sums;
    job.sum_low = grad_low ? sums + job.blocks : NULL;
    run(&job, parallel, threads);
    /* In the order of the blocks, whatever the number of threads: the same sums every time. */
    for (int64_t channel = 0; channel < channels; channel++) {
        double range_total = 0.0, low_total = 0.0;
        for (int64_t o = 0; o < outer; o++)
            for (int64_t b = 0; b < job.blocks_per_row; b++) {
                const int64_t block = (o * channels + channel) * job.blocks_per_row + b;
                range_total += job.sum_range[block];
                if (grad_low) low_total += job.sum_low[block];
            }
        grad_range[channel] = (float)range_total;
        if (grad_low) grad_low[channel] = (float)low_total;
    }
    free(sums);
    return 0;
}
