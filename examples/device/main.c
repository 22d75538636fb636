/* Learns and predicts on the core alone.  Model and state are files, or, with -DCOMPILED_IN, what `bitreplay export-c` made of a model and
 * of a state; then MODEL and STATE are left out.
 *
 *     bitreplay_device_example MODEL STATE command...
 *         sizes IMAGES            bytes that a learner keeps, and that lessons of so many pictures need
 *         learn PIXELS NAMES      one lesson: raw RGB pictures one behind the other, and a file with a name a line
 *         predict PIXELS          a line for each picture: number, whether it is unknown, probabilities
 *         views PIXELS N          the same, looking at N views of each picture
 *         reject PIXELS SHARE     the same, where that share of pictures of known things, of 32768, may be called unknown
 *         save STATE              writes the state file
 *         memory                  what was used so far
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bitreplay.h"

#ifdef COMPILED_IN
extern const unsigned char device_model[], device_state[];
extern const size_t device_model_size, device_state_size;
#endif

static void stop(const char *what, const char *why) {
  fprintf(stderr, "error: %s: %s\n", what, why);
  exit(1);
}

/* This program is for a host, so it takes its regions from the heap; on a device they are arrays, or what the linker script leaves. */
static void *region(size_t bytes) {
  void *memory = malloc(bytes > 0 ? bytes : 1);
  if (memory == NULL) stop("memory", "there is not so much");
  return memory;
}

static unsigned char *read_file(const char *path, size_t *size) {
  FILE *file = fopen(path, "rb");
  if (file == NULL || fseek(file, 0, SEEK_END) != 0) stop(path, "cannot be read");
  *size = (size_t)ftell(file);
  rewind(file);
  unsigned char *bytes = region(*size + 1);
  if (fread(bytes, 1, *size, file) != *size) stop(path, "cannot be read");
  bytes[*size] = 0;
  fclose(file);
  return bytes;
}

static void write_file(const char *path, const void *bytes, size_t size) {
  FILE *file = fopen(path, "wb");
  if (file == NULL || fwrite(bytes, 1, size, file) != size || fclose(file) != 0) stop(path, "cannot be written");
}

static void expect(bitreplay_status status, const char *what) {
  if (status == BITREPLAY_OK) return;
  fprintf(stderr, "error: %s: status %d, %s: %s\n", what, (int)status, bitreplay_status_text(status), bitreplay_last_error());
  exit(2);
}

static void learn(bitreplay_learner *learner, const char *pixels_path, const char *names_path) {
  size_t size, text_size, count = 0;
  unsigned char *pixels = read_file(pixels_path, &size);
  char *text = (char *)read_file(names_path, &text_size);
  const size_t pictures = size / bitreplay_image_size(learner);
  const char **names = region(pictures * sizeof *names);
  for (char *line = strtok(text, "\n"); line != NULL && count < pictures; line = strtok(NULL, "\n")) names[count++] = line;
  if (count != pictures || size % bitreplay_image_size(learner) != 0) stop(names_path, "expected a name for each picture");
  const size_t work_size = bitreplay_learn_size(learner, count);
  void *work = region(work_size);
  memset(work, 0xa5, work_size);
  expect(bitreplay_learn(learner, work, work_size, pixels, count, names, NULL, NULL), "learn");
  memset(work, 0x5a, work_size); /* nothing of it is needed any more */
  free(work);
  free(names);
  free(text);
  free(pixels);
}

static void predict(const bitreplay_learner *learner, const char *pixels_path, int views, int32_t share_q15) {
  size_t size, kept_size, making_size;
  bitreplay_unknown *unknown = NULL;
  bitreplay_unknown_sizes(learner, &kept_size, &making_size);
  void *kept = region(kept_size);
  if (share_q15 > 0) {
    void *making = region(making_size);
    expect(bitreplay_unknown_make(learner, kept, kept_size, making, making_size, share_q15, &unknown), "unknown");
    free(making);
  }
  unsigned char *pixels = read_file(pixels_path, &size);
  const size_t work_size = bitreplay_predict_size(learner), classes = bitreplay_class_count(learner), bytes = bitreplay_image_size(learner);
  void *work = region(work_size);
  int32_t *probabilities = region(classes * sizeof *probabilities);
  for (size_t at = 0; at + bytes <= size; at += bytes) {
    bitreplay_answer answer;
    expect(bitreplay_predict(learner, work, work_size, unknown, pixels + at, views, probabilities, classes, &answer), "predict");
    printf("%zu %d", answer.best, answer.unknown);
    for (size_t i = 0; i < classes; ++i) printf(" %d", (int)probabilities[i]);
    printf("\n");
  }
  free(probabilities);
  free(kept);
  free(work);
  free(pixels);
}

static void save(const bitreplay_learner *learner, const char *path) {
  size_t size = bitreplay_state_size(learner), written = 0;
  void *buffer = region(size);
  expect(bitreplay_save(learner, buffer, size, &written), "save");
  write_file(path, buffer, written);
  free(buffer);
}

int main(int argc, char **argv) {
#ifdef COMPILED_IN
  const unsigned char *model = device_model, *state = device_state;
  const size_t model_size = device_model_size, state_size = device_state_size;
  int next = 1;
#else
  if (argc < 3) stop("usage", "bitreplay_device_example MODEL STATE command...");
  size_t model_size, state_size;
  unsigned char *model = read_file(argv[1], &model_size), *state = read_file(argv[2], &state_size);
  int next = 3;
#endif
  size_t kept_size, open_size;
  expect(bitreplay_sizes(model, model_size, state, state_size, &kept_size, &open_size), "sizes");
  void *kept = region(kept_size), *work = region(open_size);
  bitreplay_learner *learner;
  expect(bitreplay_open(kept, kept_size, work, open_size, model, model_size, state, state_size, &learner), "open");
  free(work);
  while (next < argc) {
    const char *command = argv[next++];
    if (strcmp(command, "sizes") == 0 && next < argc) {
      const size_t images = (size_t)strtoul(argv[next++], NULL, 10);
      printf("kept %zu open %zu learn %zu predict %zu state %zu\n", kept_size, open_size, bitreplay_learn_size(learner, images), bitreplay_predict_size(learner),
             bitreplay_state_size(learner));
    } else if (strcmp(command, "learn") == 0 && next + 1 < argc) {
      learn(learner, argv[next], argv[next + 1]);
      next += 2;
    } else if (strcmp(command, "predict") == 0 && next < argc) {
      predict(learner, argv[next++], 0, 0);
    } else if (strcmp(command, "views") == 0 && next + 1 < argc) {
      predict(learner, argv[next], atoi(argv[next + 1]), 0);
      next += 2;
    } else if (strcmp(command, "reject") == 0 && next + 1 < argc) {
      predict(learner, argv[next], 0, atoi(argv[next + 1]));
      next += 2;
    } else if (strcmp(command, "save") == 0 && next < argc) {
      save(learner, argv[next++]);
    } else if (strcmp(command, "memory") == 0) {
      const bitreplay_memory used = bitreplay_memory_used(learner);
      printf("kept %zu work %zu kept_buffers %zu work_buffers %zu\n", used.kept, used.work, used.kept_buffers, used.work_buffers);
    } else {
      stop(command, "expected sizes, learn, predict, views, reject, save or memory, and what they take");
    }
  }
  return 0;
}
