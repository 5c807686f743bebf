/* feedback_own: what feedback.c and feedback_device.c share; nobody else includes it. */
#ifndef WHIT_FEEDBACK_OWN_H
#define WHIT_FEEDBACK_OWN_H
#include "calib/feedback.h"
#include "calib/rows.h"
#include "formats/unit.h"

/* 1: a device (j->solver) can choose j's codes. */
int whit_feedback_device_takes(const whit_job *j, const whit_units *u);
/* Chooses them there: fills sum for chunks of `chunk` rows (bad_scales and zero_groups of all in the first), loss (two
 * a row: chosen, nearest) and kept. *done 0: it has too little memory, which is said, and nothing is filled. */
int whit_feedback_device(whit_job *j, const whit_units *u, int64_t chunk, whit_rows_sum *sum, double *loss,
                         uint8_t *kept, int *done, whit_err *e);
#endif
