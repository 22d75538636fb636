/* The C API: a learner on a device, without heap, files, threads or exceptions (docs/device.md).
 *
 * A model file and a state file lie in memory; every further byte is the caller's, in two regions whose sizes are asked beforehand:
 * one that the learner keeps, and one that is the learner's for the time of one call.  What it writes as its state is byte for byte what
 * the Python package writes after the same lessons.
 *
 *     size_t kept_size, open_size;
 *     bitreplay_sizes(model, model_size, state, state_size, &kept_size, &open_size);
 *     void *kept = ..., *work = ...;                                      // so many bytes
 *     bitreplay_learner *learner;
 *     bitreplay_open(kept, kept_size, work, open_size, model, model_size, state, state_size, &learner);
 *     bitreplay_learn(learner, work, work_size, images, count, names, NULL, NULL);   // work_size: bitreplay_learn_size(learner, count)
 *     bitreplay_save(learner, out, out_size, &written);                   // out_size: bitreplay_state_size(learner)
 *
 * One call at a time in a program, whatever the learner: calls share a few hundred bytes of static memory.
 */
#ifndef BITREPLAY_H
#define BITREPLAY_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum bitreplay_status {
  BITREPLAY_OK = 0,
  BITREPLAY_ARGUMENT,    /* an argument does not fit; nothing has changed */
  BITREPLAY_FORMAT,      /* a file is damaged, of another version, or not for this model */
  BITREPLAY_NO_ROOM,     /* a region or buffer is too small; nothing has changed */
  BITREPLAY_CLASSES,     /* more classes, or more bytes of names, than the state has room for; nothing has changed */
  BITREPLAY_CANCELLED,   /* the progress function gave the lesson up; nothing has changed */
  BITREPLAY_UNSUPPORTED  /* a sound file, or BITREPLAY_ISA, that asks for what this build or processor has not */
} bitreplay_status;

typedef struct bitreplay_learner bitreplay_learner;
typedef struct bitreplay_unknown bitreplay_unknown;

/* What a status means, in English; and what the last call that did not return BITREPLAY_OK found, up to the next call. */
const char *bitreplay_status_text(bitreplay_status status);
const char *bitreplay_last_error(void);

/* Bytes that `bitreplay_open` needs for these files: those that stay the learner's, exactly, but for up to 63 where the region is not 64-aligned,
 * which are counted; and those that are needed for the time of the call, a few KiB above what is used.
 * Reads the headers alone: whether the files are sound says `bitreplay_open`. */
bitreplay_status bitreplay_sizes(const void *model, size_t model_size, const void *state, size_t state_size, size_t *kept_size, size_t *work_size);

/* Checks both files, byte by byte, and makes a learner that knows what the state says.
 *   memory   stays the learner's as long as it is used; nothing has to be closed
 *   work     is free again afterwards
 *   model    at a multiple of 8; stays as it is as long as the learner is used (it goes into states that carry their model)
 *   state    at a multiple of 8; not needed afterwards */
bitreplay_status bitreplay_open(void *memory, size_t size, void *work, size_t work_size, const void *model, size_t model_size, const void *state,
                                size_t state_size, bitreplay_learner **learner);

/* Side in pixels of the square pictures that the learner reads. */
size_t bitreplay_image_side(const bitreplay_learner *learner);
/* Bytes of such a picture: 3 * side * side, RGB, 0..255, row by row. */
size_t bitreplay_image_size(const bitreplay_learner *learner);
/* Classes known, numbered in the order in which they were first taught; most that may be known. */
size_t bitreplay_class_count(const bitreplay_learner *learner);
size_t bitreplay_class_limit(const bitreplay_learner *learner);
/* Name of a class, UTF-8 and not ended by 0, and its length; NULL where there is no such class. */
const char *bitreplay_class_name(const bitreplay_learner *learner, size_t class_number, size_t *length);
/* Lessons learned so far. */
uint64_t bitreplay_lessons(const bitreplay_learner *learner);

/* Told how far a lesson is: phase 0 features, 1 head, 2 tail; a phase may come twice.  Returns 0 to go on.
 * No other call may be made from it: those that could fail return BITREPLAY_ARGUMENT there. */
typedef int (*bitreplay_progress)(void *user, int phase, uint64_t done, uint64_t total);

/* Working memory, in bytes, that a lesson of at most `images` pictures needs at its highest; an upper bound that is a few KiB above what is used. */
size_t bitreplay_learn_size(const bitreplay_learner *learner, size_t images);

/* Learns one lesson as a whole, or, when anything fails, nothing.
 *   images   count pictures one behind the other
 *   names    count names, UTF-8 ended by 0, one a picture; a new name opens a new class.  What is a name: docs/formats.md, State
 *   progress may be NULL */
bitreplay_status bitreplay_learn(bitreplay_learner *learner, void *work, size_t work_size, const uint8_t *images, size_t count,
                                 const char *const *names, bitreplay_progress progress, void *user);

/* What tells pictures that show none of the known classes (docs/method.md, 4.5), and the bytes that it takes: those that stay its own, and those
 * needed for the time of the call.  It holds for the learner as it is: after a lesson, make it anew.
 *   share_q15  which share of pictures of known things may be called unknown, 15 fraction bits: 3277 for a tenth; below 32768
 * BITREPLAY_ARGUMENT where no class has two pictures with one of them remembered, or the head is not LDA. */
void bitreplay_unknown_sizes(const bitreplay_learner *learner, size_t *kept_size, size_t *work_size);
bitreplay_status bitreplay_unknown_make(const bitreplay_learner *learner, void *memory, size_t size, void *work, size_t work_size, int32_t share_q15,
                                        bitreplay_unknown **unknown);

typedef struct bitreplay_answer {
  size_t best;  /* number of the most probable class */
  int unknown;  /* 1: the picture probably shows nothing that is known; always 0 where no bitreplay_unknown was given */
} bitreplay_answer;

/* Working memory, in bytes, that one prediction needs with all the classes that may be known; an upper bound likewise. */
size_t bitreplay_predict_size(const bitreplay_learner *learner);

/* Names what is on one picture; changes nothing.
 *   unknown            NULL: nothing is called unknown
 *   views              how many views of the picture are looked at (docs/method.md, 1.1); 0: as many as were learned from
 *   probabilities_q15  NULL, or count = bitreplay_class_count values with 15 fraction bits */
bitreplay_status bitreplay_predict(const bitreplay_learner *learner, void *work, size_t work_size, const bitreplay_unknown *unknown,
                                   const uint8_t *image, int views, int32_t *probabilities_q15, size_t count, bitreplay_answer *answer);

/* Bytes of the state file as it is now, exactly; 0 where the names are longer than a state may hold (2 MiB). */
size_t bitreplay_state_size(const bitreplay_learner *learner);

/* Writes the state file.  Writing it beside the old one and replacing that by one step is the caller's (docs/formats.md). */
bitreplay_status bitreplay_save(const bitreplay_learner *learner, void *buffer, size_t size, size_t *written);

/* What was used: of the region that is kept, of the working memory at its highest since `bitreplay_open`, and both without alignment, as
 * `bitreplay info` counts (it counts neither labels and names nor the lists of operations). */
typedef struct bitreplay_memory {
  size_t kept, work;
  size_t kept_buffers, work_buffers;
} bitreplay_memory;
bitreplay_memory bitreplay_memory_used(const bitreplay_learner *learner);

#ifdef __cplusplus
}
#endif

#endif
